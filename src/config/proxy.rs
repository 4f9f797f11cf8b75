use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Span;

/// `upstream:` — where requests go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Base URL: scheme, host, port and an optional path prefix. The client's path is added to it.
    pub url: String,
    pub http2: Http2,
    /// Establishing a connection, TLS included.
    pub connect_timeout: Span,
    /// From the request to the head of the response, connecting and uploading included. Long: a model may think before
    /// its first byte.
    pub response_timeout: Span,
    /// A connection at rest is kept this long.
    pub idle_timeout: Span,
    /// PEM file of certificate authorities to trust in place of the system's.
    pub ca: Option<PathBuf>,
}

/// Whether HTTP/2 is spoken with the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Http2 {
    /// Over TLS where the upstream offers it.
    Auto,
    /// Always, also without TLS (h2c with prior knowledge).
    Always,
    Never,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            url: "https://api.openai.com".into(),
            http2: Http2::Auto,
            connect_timeout: Span::secs(10),
            response_timeout: Span::secs(600),
            idle_timeout: Span::secs(90),
            ca: None,
        }
    }
}

/// `trajectories:` — joining exchanges and judging how they ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trajectories {
    /// How often the running proxy looks for new exchanges; null: only the night and the other commands do.
    pub every: Option<Span>,
    /// A trajectory without a new exchange for this long is judged.
    pub quiet: Span,
}

impl Default for Trajectories {
    fn default() -> Self {
        Self { every: Some(Span::secs(1)), quiet: Span::secs(30) }
    }
}

/// `dashboard:` — the read-only pages on the admin address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dashboard {
    /// Host names, besides IP addresses and localhost, under which a browser may reach it.
    pub allowed_hosts: Vec<String>,
}

/// `log:` — what goes to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Directives of tracing's `EnvFilter`: `info`, `remora=debug`, …
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "warn,remora=info".into(), format: LogFormat::Text }
    }
}
