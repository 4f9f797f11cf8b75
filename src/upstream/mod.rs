//! The client side: connections to the endpoints that answer.
//!
//! In: a request with its path and body. Out: the upstream's response, streamed, or why there is none. Connections are
//! pooled, a pool for each upstream, and opened directly or through a proxy.
//!
//! Always true: a request is sent again only when the pooled connection turned out dead before any of it was written;
//! each new connection asks for the host's addresses anew; certificates are always verified.

mod body;
mod connector;
mod dialer;
mod direct;
mod error;
mod heard;
mod http_client;
mod proxy;
mod trust;

pub use body::UpstreamBody;
pub use dialer::{Dialed, Dialer};
pub use error::{SetupError, UpstreamError};
pub use http_client::{HttpUpstream, Setup};
