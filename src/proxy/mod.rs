//! The listener that apps talk to.
//!
//! In: HTTP/1.1 and HTTP/2 requests, any path and method. Out: the same to the upstream and its answers back, streamed
//! as they come, with a copy to `capture`. One path is answered here: `POST /remora/v1/feedback`.
//!
//! Always true: nothing is parsed before it is forwarded; only headers of one hop, `Host` and `x-remora-*` change; a
//! client that goes away cancels the upstream; an upstream that breaks off is seen as a break by the client; what two
//! parties could read differently is not forwarded; no client holds anything for longer than `limits:` says.

mod feedback;
mod forward;
mod front;
mod headers;
mod limits;
mod listener;
mod respond;
mod tls;
mod wire;

pub use feedback::FeedbackDesk;
pub use forward::Forwarder;
pub use front::Front;
pub use limits::{BodyError, ClientBody, Slow};
pub use listener::Proxy;
pub use respond::ProxyBody;
pub use tls::TlsError;
