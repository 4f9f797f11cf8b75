use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::tasks;
use crate::telemetry::ClientMetrics;

/// The files of `tls:` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls.{key}: {path}: {reason}", path = path.display())]
    File { key: &'static str, path: PathBuf, reason: String },
    #[error("tls: the key {key} does not fit the certificate {certificate}: {source}", key = key.display(), certificate = certificate.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("tls.client_ca: {path}: {source}", path = path.display())]
    Clients { path: PathBuf, source: rustls::server::VerifierBuilderError },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Our side of TLS. New connections get what was read last; running ones keep what they began with.
pub(super) struct ServerTls {
    files: config::Tls,
    current: RwLock<Arc<rustls::ServerConfig>>,
    /// The files as they were when they were last tried.
    tried: Mutex<Look>,
    metrics: ClientMetrics,
}

/// What a glance at the files shows; equal means unchanged.
type Look = Vec<Option<(SystemTime, u64, u64)>>;

/// Files are looked at this often: three calls of `stat`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be used, or the key is another certificate's.
    pub fn build(files: &config::Tls, metrics: ClientMetrics) -> Result<Self, TlsError> {
        let tried = Mutex::new(look(files));
        let current = RwLock::new(Arc::new(load(files)?));
        Ok(Self { files: files.clone(), current, tried, metrics })
    }

    /// For one connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Reads the files again; blocks.
    ///
    /// # Errors
    /// When they cannot be used; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = look(&self.files);
        let loaded = load(&self.files).inspect_err(|_| self.metrics.certificates_refused.increment(1))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        self.metrics.certificates_loaded.increment(1);
        tracing::info!(certificate = %self.files.certificate.display(), "new connections get the new certificate");
        Ok(())
    }

    /// Takes up changed files until it is stopped.
    pub async fn watch(self: Arc<Self>, stopping: CancellationToken) {
        let mut before = None;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let this = self.clone();
            let seen = before.take();
            before = tasks::blocking(move || this.follow(seen)).await.flatten();
        }
    }

    /// Reloads where the files changed and are the same as a moment ago: certificate and key are seldom replaced in one
    /// instant. Gives what to compare with next time.
    fn follow(&self, before: Option<Look>) -> Option<Look> {
        let now = look(&self.files);
        if now == *self.tried.lock().unwrap_or_else(PoisonError::into_inner) {
            return None;
        }
        if before.as_ref() != Some(&now) {
            return Some(now);
        }
        if let Err(error) = self.reload() {
            tracing::warn!(%error, "the changed certificate cannot be used; connections get the one from before");
        }
        None
    }
}

fn look(files: &config::Tls) -> Look {
    [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()]
        .into_iter()
        .map(|path| {
            let seen = std::fs::metadata(path?).ok()?;
            Some((seen.modified().ok()?, seen.len(), inode(&seen)))
        })
        .collect()
}

#[cfg(unix)]
fn inode(file: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

fn load(files: &config::Tls) -> Result<rustls::ServerConfig, TlsError> {
    let chain = certificates("certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|e| file("key", &files.key, format!("no private key in PEM form can be read: {e}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates("client_ca", path)? {
                roots.add(certificate).map_err(|e| file("client_ca", path, e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|source| TlsError::Clients { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |e: rustls_pki_types::pem::Error| file(key, path, e.to_string());
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() {
        return Err(file(key, path, "holds no certificate in PEM form".into()));
    }
    Ok(found)
}

fn file(key: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::File { key, path: path.to_owned(), reason }
}
