//! What a client may take, and what is done when it takes more.
//!
//! In: the bytes of client connections on their way to hyper and back. Out: the same bytes; or an end of the connection,
//! or a refusal, where a limit of `limits:` is passed or a request can be read in more than one way.
//!
//! Always true: one timer a connection, armed anew only when it rings early; nothing is allocated for a request that
//! keeps within the limits; a message that two parties could read differently is answered with an error and never
//! forwarded.

mod answer;
mod body;
mod files;
mod framing;
mod places;
mod refusal;
mod socket;
mod state;
mod terms;

pub(super) use answer::ambiguous;
pub use body::{BodyError, ClientBody, Slow};
pub(super) use files::raise as raise_open_files;
pub(super) use framing::Flaw;
pub(super) use places::{Place, Places};
pub(super) use refusal::refuse;
pub(super) use socket::Guarded;
pub(super) use state::{Busy, Passed, Session};
pub(super) use terms::Terms;
