use std::path::PathBuf;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::Span;

/// `tls:` — how apps reach the proxy over TLS. The files are PEM; when they change, new connections get the new ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, followed by those that lead to an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities one of which must have signed the client's certificate; null: clients need none.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// `limits:` — what a client may take. The defaults suit a sidecar whose clients are trusted, but may be broken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open client connections; further ones wait in the system's backlog.
    pub connections: usize,
    /// From the first byte of a request's head to its last; also for a TLS handshake.
    pub header_timeout: Span,
    /// A connection without a request is kept this long.
    pub keep_alive: Span,
    /// While a request's body is being read, its client may say nothing this long.
    pub body_timeout: Span,
    /// While an answer waits to be written, its client may read nothing this long.
    pub write_timeout: Span,
    /// Request line and headers.
    pub header_size: ByteSize,
    /// Number of headers.
    pub headers: usize,
    /// Concurrent requests of one HTTP/2 connection.
    pub http2_streams: u32,
    /// What one HTTP/2 request may send before it is read; a connection, four times as much.
    pub http2_window: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            header_timeout: Span::secs(30),
            // The longest of common clients' pools is okhttp's, 5 minutes.
            keep_alive: Span::secs(360),
            body_timeout: Span::secs(120),
            write_timeout: Span::secs(300),
            header_size: ByteSize::kib(64),
            headers: 100,
            http2_streams: 1000,
            http2_window: ByteSize::kib(256),
        }
    }
}

impl Limits {
    /// RFC 9113 §6.9.1: a window is at most 2³¹ − 1; the connection's is four times a request's.
    const LARGEST_WINDOW: u64 = (1 << 31) / 4 - 1;

    pub(super) fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        let spans = [
            ("limits.header_timeout", self.header_timeout),
            ("limits.keep_alive", self.keep_alive),
            ("limits.body_timeout", self.body_timeout),
            ("limits.write_timeout", self.write_timeout),
        ];
        for (path, span) in spans {
            if span.0.is_zero() {
                wrong(path, "must be longer than nothing".into());
            }
        }
        let numbers = [
            ("limits.connections", self.connections as u64, 1, u64::from(u32::MAX)),
            ("limits.header_size", self.header_size.0, 8 << 10, 16 << 20),
            ("limits.headers", self.headers as u64, 1, 10_000),
            ("limits.http2_streams", u64::from(self.http2_streams), 1, u64::from(u32::MAX)),
            // RFC 9113 §6.9.2: the default window.
            ("limits.http2_window", self.http2_window.0, 65_535, Self::LARGEST_WINDOW),
        ];
        for (path, given, least, most) in numbers {
            if !(least..=most).contains(&given) {
                wrong(path, format!("{given} is not within {least} and {most}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};

    #[test]
    fn limits_that_would_serve_nobody_are_reported() {
        let yaml = "limits:\n  connections: 0\n  keep_alive: 0s\n  header_size: 1KiB\n  http2_window: 4GiB\n";
        let Err(ConfigError::Invalid { problems, .. }) = Config::from_yaml(yaml, "test", |_| None) else {
            panic!("they were taken")
        };
        let paths: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            paths,
            ["limits.keep_alive", "limits.connections", "limits.header_size", "limits.http2_window"]
        );
    }

    #[test]
    fn tls_names_its_files() {
        let yaml = "tls:\n  certificate: a.pem\n  key: b.pem\n";
        let config = Config::from_yaml(yaml, "test", |_| None).expect("it is complete");
        assert_eq!(config.tls.map(|t| t.client_ca), Some(None));
        Config::from_yaml("tls:\n  certificate: a.pem\n", "test", |_| None).expect_err("the key is missing");
    }
}
