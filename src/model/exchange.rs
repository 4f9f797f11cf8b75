use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::{ExchangeId, Micros, Scope};

/// One request and its response, as they crossed the proxy. Credentials are already replaced by fingerprints.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub id: ExchangeId,
    pub scope: Scope,
    /// Same number, same client connection.
    pub connection: i64,
    /// Keyed fingerprint of the client's credential, or none where it sent none.
    pub client_key: Option<String>,
    pub method: String,
    /// Path and query as the client sent them, key-like query values replaced.
    pub target: String,
    /// Base URL of the upstream, without credentials.
    pub upstream: String,
    pub request_headers: Headers,
    pub request_body: Body,
    /// None when no response head came.
    pub response: Option<Response>,
    pub timing: Timing,
    pub ended: Ended,
    /// What went wrong, in words; none when nothing did.
    pub detail: Option<String>,
}

/// The upstream's answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Body,
}

/// When the parts of an exchange happened.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The request's head was read.
    pub started: Micros,
    /// The response's head came.
    pub head: Option<Micros>,
    /// The first byte of the response's body came.
    pub first_byte: Option<Micros>,
    /// The last byte went to the client, or it was given up.
    pub ended: Micros,
}

/// Header lines in order, names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a header; the name's case does not matter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// A recorded body: what was kept of it, and the length and hash of all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The first bytes, all of them unless `truncated`. As on the wire: compressed bodies stay compressed.
    pub bytes: Bytes,
    /// Length of the whole body in bytes.
    pub length: u64,
    /// SHA-256 of the whole body.
    pub sha256: [u8; 32],
    /// Whether `bytes` is only the beginning.
    pub truncated: bool,
}

impl Body {
    /// A body that was kept whole.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self { length: bytes.len() as u64, sha256: BodyHash::of(&bytes), truncated: false, bytes }
    }
}

/// SHA-256 of a body that comes in pieces.
#[derive(Clone)]
pub struct BodyHash(Context);

impl BodyHash {
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a hash is begun, not defaulted")]
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// The hash of a body that is there whole.
    #[must_use]
    pub fn of(body: &[u8]) -> [u8; 32] {
        let mut hash = Self::new();
        hash.update(body);
        hash.finish()
    }

    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.0.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyHash")
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::whole(Bytes::new())
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The client got everything that the upstream sent, and the upstream finished properly.
    Complete,
    /// The client went away first.
    ClientCancelled,
    /// The upstream broke off, could not be reached or spoke no HTTP.
    UpstreamReset,
    /// The upstream took too long.
    UpstreamTimeout,
    /// The traffic was whole but the record is cut at the capture limit.
    TruncatedByLimit,
    /// Remora itself stopped in the middle.
    Interrupted,
}

impl Ended {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Complete, "complete"),
        (Self::ClientCancelled, "client_cancelled"),
        (Self::UpstreamReset, "upstream_reset"),
        (Self::UpstreamTimeout, "upstream_timeout"),
        (Self::TruncatedByLimit, "truncated_by_limit"),
        (Self::Interrupted, "interrupted"),
    ];

    /// The stored and exported name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(e, _)| *e == self).map_or("interrupted", |(_, n)| n)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Ended {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::NAMES.iter().find(|(_, n)| *n == s).map(|(e, _)| *e).ok_or(())
    }
}
