/// Why a demo could not be played. Answers that go wrong on purpose are no errors: they are the demo.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("{url:?} is no http URL that requests can be sent to")]
    Url { url: String, source: http::uri::InvalidUri },
    #[error("cannot send a request to {url}")]
    Send { url: String, source: hyper_util::client::legacy::Error },
    #[error("the answer of {url} broke off")]
    Receive { url: String, source: hyper::Error },
    #[error("the answer of {url} is no chat completion: {reason}")]
    Unreadable { url: String, reason: String },
}
