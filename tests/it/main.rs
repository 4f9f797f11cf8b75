//! Integration tests: real sockets, a scripted upstream, the real proxy in process.

mod capture;
mod feedback;
mod harness;
mod layering;
mod lifecycle;
mod transparency;
