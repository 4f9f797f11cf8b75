use serde::{Deserialize, Serialize};

use super::Span;

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

/// `shutdown:` — what SIGTERM and Ctrl-C wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// Running exchanges may finish within this time.
    pub grace: Span,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Span::secs(30) }
    }
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
