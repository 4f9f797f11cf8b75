//! Integration tests: real sockets, a scripted upstream, the real proxy in process.

#![expect(clippy::disallowed_methods, reason = "the scripted peers are no part of the program")]

mod adapters;
mod assembly;
mod capture;
mod command_line;
mod demo;
#[cfg(target_os = "linux")]
mod fail_open;
mod failures;
mod faults;
mod feedback;
mod forward_proxy;
mod front_tls;
mod fuzz_seeds;
mod harness;
mod kill;
mod layering;
mod lifecycle;
mod limits;
mod pool;
mod power;
mod protocols;
mod proxies;
mod reload;
mod restart;
mod routes;
#[cfg(feature = "onnx")]
mod serve;
#[cfg(target_os = "linux")]
mod service_manager;
mod smuggling;
mod storage;
mod tls;
#[cfg(feature = "onnx")]
mod train_lora;
#[cfg(feature = "onnx")]
mod training;
mod transparency;
mod uploads;
mod websocket;
