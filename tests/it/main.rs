//! Integration tests: real sockets, a scripted upstream, the real proxy in process.

#![expect(clippy::disallowed_methods, reason = "the scripted peers are no part of the program")]

mod assembly;
mod capture;
mod command_line;
mod demo;
mod faults;
mod feedback;
mod front_tls;
mod harness;
mod kill;
mod layering;
mod lifecycle;
mod limits;
mod smuggling;
mod tls;
mod transparency;
