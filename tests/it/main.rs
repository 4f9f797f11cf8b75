//! Integration tests: real sockets, a scripted upstream, the real proxy in process.

#![expect(clippy::disallowed_methods, reason = "the scripted peers are no part of the program")]

mod assembly;
mod capture;
mod command_line;
mod demo;
mod failures;
mod faults;
mod feedback;
mod forward_proxy;
mod harness;
mod kill;
mod layering;
mod lifecycle;
mod pool;
mod protocols;
mod proxies;
mod reload;
mod restart;
mod routes;
mod storage;
#[cfg(target_os = "linux")]
mod service_manager;
mod tls;
mod transparency;
mod uploads;
mod websocket;
