//! The client side: connections to the endpoint that answers.
//!
//! In: a request with its path and body. Out: the upstream's response, streamed, or why there is none. Connections are
//! pooled; a request is sent again only when the pooled connection turned out dead before any of it was written.

mod connector;
mod error;
mod heard;
mod http_client;

pub use error::{SetupError, UpstreamError};
pub use http_client::HttpUpstream;
