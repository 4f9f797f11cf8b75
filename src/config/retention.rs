use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// `retention:` — how long what was recorded is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Days before today (in UTC) that are kept whole; null: no limit.
    pub days: Option<u32>,
    /// What recorded exchanges may occupy on disk; null: no limit. Today is never dropped.
    pub bytes: Option<ByteSize>,
}

impl Default for Retention {
    fn default() -> Self {
        // A recorder that grows for ever fills the disk of whoever forgot it.
        Self { days: Some(30), bytes: None }
    }
}
