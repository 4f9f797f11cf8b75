//! The listener that apps talk to.
//!
//! In: HTTP/1.1 and HTTP/2 requests, any path and method. Out: the same to the upstream and its answers back, streamed
//! as they come, with a copy to `capture`. One path is answered here: `POST /remora/v1/feedback`.
//!
//! Always true: nothing is parsed before it is forwarded, but for the model's name where a route asks for it; only
//! headers of one hop, `Host` and `x-remora-*` change; a client that goes away cancels the upstream; an upstream that
//! breaks off is seen as a break by the client; what follows a change of protocol passes unread; a request is answered
//! under the settings that were in force when it came; what two parties could read differently is not forwarded; no
//! client holds anything for longer than `limits:` says.

mod authority;
mod blind;
mod client_stream;
mod connect;
mod drain;
mod feedback;
mod forward;
mod front;
mod headers;
mod limits;
mod line;
mod listener;
mod model_name;
mod peeked;
mod respond;
mod route;
mod serve;
mod tls;
mod wire;

pub use authority::{Authority, AuthorityError};
pub use connect::{ForwardProxy, ForwardProxyDeps, ForwardProxyError};
mod tunnel;
mod turn;
mod upgrade;
mod upload;

pub use client_stream::ClientStream;
pub use drain::Phase;
pub use feedback::FeedbackDesk;
pub use forward::Forwarder;
pub use front::Front;
pub use limits::{BodyError, ClientBody, Slow};
pub use line::{Line, Tunnels};
pub use listener::Proxy;
pub use respond::ProxyBody;
pub use route::Routes;
pub use tls::TlsError;
pub use turn::Turn;
pub use upload::Upload;
