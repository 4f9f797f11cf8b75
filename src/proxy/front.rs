use std::sync::{Arc, PoisonError, RwLock};

use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;

use super::limits::{self, Places, Terms};
use super::tls::{ServerTls, TlsError};
use crate::config;
use crate::telemetry::ClientMetrics;

/// What new client connections meet: limits and TLS. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    /// Exchanged as a whole: a connection keeps what it began with.
    settings: RwLock<Arc<Settings>>,
    tls: Option<Arc<ServerTls>>,
    places: Places,
    /// As many connections as the limit of open files allows.
    room: usize,
    metrics: ClientMetrics,
}

pub(super) struct Settings {
    pub terms: Arc<Terms>,
    pub server: auto::Builder<TokioExecutor>,
    /// Connections, at most.
    pub most: usize,
}

/// A client may begin and cancel so many HTTP/2 requests before they are looked at (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// And so many may end by its own errors, over the life of a connection.
const ERROR_RESETS: usize = 1024;

impl Front {
    /// Raises the limit of open files and reads the certificate.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn build(
        tls: Option<&config::Tls>,
        limits: &config::Limits,
        metrics: &ClientMetrics,
    ) -> Result<Self, TlsError> {
        let room = limits::raise_open_files().unwrap_or(usize::MAX);
        if room < limits.connections {
            tracing::info!(
                room,
                "limits.connections is more than the limit of open files allows; only so many are accepted"
            );
        }
        let tls = tls.map(|files| ServerTls::build(files, metrics.clone())).transpose()?.map(Arc::new);
        Ok(Self(Arc::new(Inner {
            settings: RwLock::new(Arc::new(Settings::new(limits, room, metrics))),
            tls,
            places: Places::new(metrics.connections.clone()),
            room,
            metrics: metrics.clone(),
        })))
    }

    /// What stands before the address in URLs.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.0.tls.is_some() { "https" } else { "http" }
    }

    /// Reads the certificate's files at once, where it would take a second or two to notice that they changed. Blocks.
    ///
    /// # Errors
    /// When they cannot be used; connections get the certificate from before.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.0.tls.as_ref().map_or(Ok(()), |tls| tls.reload())
    }

    /// Changes the limits of connections from now on.
    pub fn set_limits(&self, limits: &config::Limits) {
        let settings = Settings::new(limits, self.0.room, &self.0.metrics);
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.0.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tls(&self) -> Option<&Arc<ServerTls>> {
        self.0.tls.as_ref()
    }

    pub(super) fn places(&self) -> &Places {
        &self.0.places
    }

    pub(super) fn metrics(&self) -> &ClientMetrics {
        &self.0.metrics
    }
}

impl Settings {
    fn new(limits: &config::Limits, room: usize, metrics: &ClientMetrics) -> Self {
        Self {
            terms: Arc::new(Terms::new(limits, metrics)),
            server: server(limits),
            most: limits.connections.min(room),
        }
    }
}

fn server(limits: &config::Limits) -> auto::Builder<TokioExecutor> {
    /// What hyper takes without being told, from its stack.
    const HEADERS_BY_DEFAULT: usize = 100;
    let bytes = |size: bytesize::ByteSize| u32::try_from(size.0).expect("checked with the configuration");
    let head = bytes(limits.header_size);
    let window = bytes(limits.http2_window);
    let mut server = auto::Builder::new(TokioExecutor::new());
    let mut http1 = server.http1();
    http1
        .preserve_header_case(true)
        // The upstream's date, or none.
        .auto_date_header(false)
        // Ours covers the connection's whole life with one timer; hyper makes one a request.
        .header_read_timeout(None)
        // A head that does not fit is answered 431.
        .max_buf_size(head as usize);
    if limits.headers != HEADERS_BY_DEFAULT {
        http1.max_headers(limits.headers);
    }
    server
        .http2()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(window * 4)
        .max_send_buf_size(window as usize)
        .max_concurrent_streams(limits.http2_streams)
        // Also what bounds a flood of CONTINUATION frames.
        .max_header_list_size(head)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS);
    server
}
