use std::net::SocketAddr;

/// The server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("serve.listen: cannot listen on {address}: {source}. Choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },

    #[error("serve.listen: {0:?} is no address and port, such as 127.0.0.1:4143")]
    Address(String),

    #[error("serve.listen: the socket cannot be used: {0}")]
    Socket(std::io::Error),

    #[error("no thread for the engine: {0}")]
    Thread(std::io::Error),

    #[error("the model has no name to answer to")]
    Nameless,

    #[error("serve.adapters.{name}: {path}: {reason}", path = path.display())]
    Adapter { name: String, path: std::path::PathBuf, reason: String },
}
