use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::Span;

/// `capture:` — what is recorded, and how safely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// Off: a plain proxy that records nothing.
    pub enabled: bool,
    /// Kept of each body; the rest is counted and hashed.
    pub max_body: ByteSize,
    /// Bodies that are files (multipart forms, audio, images, archives), in either direction: kept like others, or only
    /// as length and hash.
    pub keep_uploads: bool,
    /// Kept in memory at once, over all exchanges in flight and waiting to be written.
    pub memory: ByteSize,
    pub durability: Durability,
    /// Kept in the journal at most, before it is moved into the record; beyond, records are dropped and counted.
    pub journal: ByteSize,
    /// The end of a response waits no longer than this for its record.
    pub ack_timeout: Span,
    /// Requests whose path begins with one of these are not recorded.
    pub skip_paths: Vec<String>,
    /// Header names, besides the built-in ones, whose values are credentials.
    pub secret_headers: Vec<String>,
}

/// What a finished response guarantees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing: the record follows when it follows.
    None,
    /// The record survives the death of the process.
    Process,
    /// The record survives loss of power: synced to disk.
    Power,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            enabled: true,
            max_body: ByteSize::mib(16),
            keep_uploads: false,
            memory: ByteSize::mib(128),
            durability: Durability::Process,
            journal: ByteSize::gib(2),
            ack_timeout: Span::millis(250),
            skip_paths: Vec::new(),
            secret_headers: Vec::new(),
        }
    }
}
