//! Listening sockets: bound here, opened by a service manager, or handed over by the process before this one.

use std::net::{SocketAddr, TcpListener as Socket};
use std::sync::{Arc, Mutex, PoisonError};

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::AppError;
use crate::config::variable;

/// What sockets are for: the setting with their address.
pub(super) const LISTEN: &str = "listen";
pub(super) const ADMIN: &str = "admin";
pub(super) const SERVE: &str = "serve.listen";

/// Sockets that are open already.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    key: String,
    /// The setting that it was opened for; none: the service manager decides where we listen.
    address: Option<String>,
    socket: Socket,
}

impl Inherited {
    /// The sockets of systemd's socket activation (`sd_listen_fds(3)`): those named `listen` and `admin`, or else the
    /// first and the second. To be called before there are threads: it takes the variables out of the environment.
    ///
    /// # Errors
    /// When what was passed are no TCP sockets, or more than two.
    pub fn from_service_manager() -> Result<Self, AppError> {
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = listenfd::ListenFd::from_env();
        let count = passed.len();
        let wrong = |reason: &str| AppError::Passed { count, reason: reason.to_owned() };
        let names: Vec<&str> = names.split(':').collect();
        let named = names.iter().any(|name| [LISTEN, ADMIN].contains(name));
        let mut found = Self::default();
        for at in 0..count {
            let key = match names.get(at).filter(|_| named) {
                Some(name) => *name,
                None => *[LISTEN, ADMIN].get(at).ok_or_else(|| wrong("more than two"))?,
            };
            let socket = passed.take_tcp_listener(at).map_err(|e| wrong(&e.to_string()))?;
            found.add(key.to_owned(), None, socket.ok_or_else(|| wrong("one twice"))?);
        }
        Ok(found)
    }

    pub(super) fn add(&mut self, key: String, address: Option<String>, socket: Socket) {
        self.0.push(Passed { key, address, socket });
    }

    /// The socket for a setting. One that was opened for another address is not it.
    fn take(&mut self, key: &str, address: &str) -> Option<Socket> {
        let fits = |p: &Passed| p.key == key && p.address.as_deref().is_none_or(|a| a == address);
        self.0.iter().position(fits).map(|at| self.0.swap_remove(at).socket)
    }
}

/// Copies of the listening sockets, to be handed over. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Vec<KeptSocket>>>);

/// A listening socket with what it is for.
#[derive(Clone, Debug)]
pub(super) struct KeptSocket {
    pub key: &'static str,
    /// As the settings say it.
    pub address: String,
    pub socket: Arc<Socket>,
}

impl Kept {
    /// The socket for a setting: the inherited one, else a new one. A copy is kept.
    pub(super) async fn open(
        &self,
        key: &'static str,
        address: &str,
        inherited: &mut Inherited,
    ) -> Result<(TcpListener, SocketAddr), AppError> {
        // The embedded server has no option of its own.
        let option = if key == SERVE { key.to_owned() } else { format!("--{key}") };
        let failed = |e: std::io::Error| AppError::Listen {
            key,
            address: address.to_owned(),
            reason: match e.kind() {
                std::io::ErrorKind::AddrInUse => format!(
                    "another program listens there. Stop it, take over from it with --takeover if it is a \
                     Remora with this data directory, or choose another address with {option}"
                ),
                _ => format!("{e}. Choose another address with {option}"),
            },
        };
        let listener = match inherited.take(key, address) {
            Some(socket) => {
                socket.set_nonblocking(true).map_err(failed)?;
                TcpListener::from_std(socket).map_err(failed)?
            }
            None => TcpListener::bind(address).await.map_err(failed)?,
        };
        let bound = listener.local_addr().map_err(failed)?;
        let socket = Arc::new(copy(&listener).map_err(failed)?);
        let kept = KeptSocket { key, address: address.to_owned(), socket };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        Ok((listener, bound))
    }

    pub(super) fn sockets(&self) -> Vec<KeptSocket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the copy of one socket that nobody accepts from.
    #[cfg(feature = "onnx")]
    pub(super) fn close_one(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|kept| kept.key != key);
    }

    /// Closes the copies: while one is open, clients can connect.
    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(unix)]
fn copy(listener: &TcpListener) -> std::io::Result<Socket> {
    Ok(std::os::fd::AsFd::as_fd(listener).try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn copy(listener: &TcpListener) -> std::io::Result<Socket> {
    Ok(std::os::windows::io::AsSocket::as_socket(listener).try_clone_to_owned()?.into())
}

/// A listener that accepts while it may; otherwise clients wait in the system's queue, where a successor finds them.
pub(super) struct Gated {
    pub listener: TcpListener,
    pub open: watch::Receiver<bool>,
}

impl Listener for Gated {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let open = *self.open.borrow_and_update();
            tokio::select! {
                accepted = Listener::accept(&mut self.listener), if open => return accepted,
                changed = self.open.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
