use serde::{Deserialize, Serialize};

use super::Span;

/// `shutdown:` — what SIGTERM, Ctrl-C and a successor wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// Running exchanges may finish within this time.
    pub grace: Span,
    /// Connections at rest are kept this long, so that a request already under way is still answered.
    pub idle_grace: Span,
    /// In place of `grace` and `idle_grace` when another process has taken over.
    pub handover_grace: Span,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Span::secs(30), idle_grace: Span::secs(1), handover_grace: Span::secs(600) }
    }
}
