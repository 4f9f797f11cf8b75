//! Integration tests: real sockets, a scripted upstream, the real proxy in process.

mod assembly;
mod capture;
mod command_line;
mod feedback;
mod harness;
mod layering;
mod lifecycle;
mod transparency;
