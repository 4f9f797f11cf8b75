use std::time::Duration;

use metrics::Counter;

use crate::config::Limits;
use crate::telemetry::ClientMetrics;

/// The limits of one connection, as they were when it began, and where their passing is counted.
#[derive(Debug)]
pub(in crate::proxy) struct Terms {
    pub header_timeout: Duration,
    pub keep_alive: Duration,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    /// Bytes.
    pub header_size: usize,
    pub headers: usize,
    pub late_heads: Counter,
    pub slow_bodies: Counter,
    pub slow_readers: Counter,
}

impl Terms {
    pub fn new(limits: &Limits, metrics: &ClientMetrics) -> Self {
        Self {
            header_timeout: limits.header_timeout.0,
            keep_alive: limits.keep_alive.0,
            body_timeout: limits.body_timeout.0,
            write_timeout: limits.write_timeout.0,
            header_size: usize::try_from(limits.header_size.0).unwrap_or(usize::MAX),
            headers: limits.headers,
            late_heads: metrics.late_heads.clone(),
            slow_bodies: metrics.slow_bodies.clone(),
            slow_readers: metrics.slow_readers.clone(),
        }
    }
}
