//! An OpenAI-compatible server over language models that run here, with adapters that are swapped between tokens.
//!
//! In: an [`Engine`](engine::Engine) that computes logits, a [`Text`] that turns text into tokens, HTTP requests. Out:
//! answers, plain or streamed, by the base model or by the adapter that the request names.
//!
//! ```text
//! HTTP ──▶ http: read, check, render the prompt ──▶ scheduler: queue ▸ slots ▸ prompt chunk ▸ step ──▶ engine
//!            ▲                                          │ each token: sampling (under a grammar) ▸ voice
//!            └── calls ◀── events, one channel a request ─┘
//! names: which name means the base, which an adapter; replaced whole, read once a request
//! ```
//!
//! Always true: one thread drives the engine, and nothing else does; a request keeps the adapter with which it began;
//! nothing that one client does, or fails to do, makes another one wait for it beyond its turn; what waits is bounded;
//! a text is the same however its tokens were cut and however many requests ran beside it.

mod calls;
pub mod engine;
mod error;
mod files;
mod grammar;
mod http;
mod names;
pub mod onnx_engine;
mod open;
mod sampling;
mod scheduler;
pub mod scripted;
mod server;
mod text;
mod voice;

pub use error::ServeError;
pub use files::Stamp;
pub use names::{Adapter, Meaning, NameError, Names};
pub use open::{OpenError, open, over};
pub use server::{Door, LoadAdapter, Model, Server};
pub use text::{ModelText, Text};
