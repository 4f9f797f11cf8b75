//! Remora: a sidecar for apps that call an LLM. It records every exchange by day and dreams by night.
//!
//! ```text
//! app ──▶ proxy ──▶ upstream
//!           ┆ copies (bounded; the client never waits for them beyond the acknowledgement)
//!        capture ──▶ store ──▶ trajectory ──▶ outcome ──▶ dream ──▶ skills (files in git)
//!                      │                                   ▲
//!                      └──────────▶ search ────────────────┘
//!        dashboard looks at all of it, and changes nothing
//! ```
//!
//! Modules in the order of their ranks; an import points to a lower rank (`tests/it/layering.rs`).

// rank 0: plain data, settings, tasks
pub mod config;
pub mod model;
pub mod tasks;

// rank 1: formats, files, the runtime, telemetry, the client side of HTTP
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod store;
pub mod telemetry;
pub mod upstream;
pub mod wire;

// rank 2: one stage each
pub mod adapters;
pub mod capture;
pub mod skills;
pub mod trajectory;

// rank 3: what stages build on
pub mod dashboard;
pub mod outcome;
pub mod proxy;
pub mod search;
#[cfg(feature = "onnx")]
pub mod serve;

// rank 4: the night, and what starts it
pub mod dream;
pub mod schedule;
#[cfg(feature = "onnx")]
pub mod train;

// rank 5: wiring
pub mod app;
pub mod demo;

// rank 6: verbs
pub mod cli;
