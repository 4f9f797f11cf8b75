//! Credentials never reach the disk: their values are replaced by a keyed fingerprint, the same for the same value.

use std::io::Write;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::Sha256;

use crate::model::Headers;

/// Headers whose value is a credential.
const SECRET_HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "x-amz-security-token",
    "helicone-auth",
    "x-litellm-api-key",
    "x-portkey-api-key",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    // Browsers cannot set headers on a WebSocket, so realtime clients put the key here.
    "sec-websocket-protocol",
];

/// Query parameters whose value is a credential.
const SECRET_PARAMETERS: &[&str] = &[
    "key",
    "api_key",
    "api-key",
    "apikey",
    "token",
    "access_token",
    "auth",
    "sig",
    "signature",
    "secret",
    "client_secret",
    "password",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
];

/// Which of them says who the client is, the most telling first.
const CLIENT_KEYS: &[&str] = &["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// Replaces credentials by fingerprints.
#[derive(Clone)]
pub struct Redactor {
    key: Hmac<Sha256>,
    more: Vec<String>,
}

impl Redactor {
    /// A redactor whose fingerprints are keyed by the file's 32 bytes; the file is made on first use. Without the key a
    /// fingerprint cannot be tried against guessed credentials.
    ///
    /// # Errors
    /// When the file can be neither read nor made.
    pub fn open(key_file: &Path, secret_headers: &[String]) -> std::io::Result<Self> {
        let key = match std::fs::read(key_file) {
            Ok(key) if key.len() == 32 => key,
            Ok(_) => {
                return Err(std::io::Error::other(
                    "the key file must hold 32 bytes; delete it to have a new one made",
                ));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => make_key(key_file)?,
            Err(e) => return Err(e),
        };
        Ok(Self::with_key(&key, secret_headers))
    }

    /// A redactor with a given key.
    #[must_use]
    pub fn with_key(key: &[u8], secret_headers: &[String]) -> Self {
        Self {
            key: Hmac::new_from_slice(key).expect("HMAC takes keys of any length"),
            more: secret_headers.iter().map(|h| h.to_ascii_lowercase()).collect(),
        }
    }

    /// 64 bits of HMAC-SHA256, as 16 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self, value: &[u8]) -> String {
        let mut mac = self.key.clone();
        mac.update(value);
        hex::encode(&mac.finalize().into_bytes()[..8])
    }

    fn is_secret(&self, name: &str) -> bool {
        SECRET_HEADERS.contains(&name)
            || self.more.iter().any(|h| h == name)
            || name.ends_with("-api-key")
            || name.ends_with("-secret")
            || name.ends_with("-token")
    }

    /// Headers as they may be stored.
    #[must_use]
    pub fn headers(&self, headers: &HeaderMap) -> Headers {
        Headers(
            headers
                .iter()
                .map(|(name, value)| {
                    let name = name.as_str();
                    let value = if self.is_secret(name) {
                        format!("[fingerprint {}]", self.fingerprint(value.as_bytes()))
                    } else {
                        String::from_utf8_lossy(value.as_bytes()).into_owned()
                    };
                    (name.to_owned(), value)
                })
                .collect(),
        )
    }

    /// The fingerprint of the client's credential.
    #[must_use]
    pub fn client_key(&self, headers: &HeaderMap) -> Option<String> {
        CLIENT_KEYS.iter().find_map(|name| headers.get(*name)).map(|value| self.fingerprint(value.as_bytes()))
    }

    /// Path and query as they may be stored.
    #[must_use]
    pub fn target(&self, target: &str) -> String {
        let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) if SECRET_PARAMETERS.contains(&name.to_ascii_lowercase().as_str()) => {
                    format!("{name}=[fingerprint%20{}]", self.fingerprint(value.as_bytes()))
                }
                _ => pair.to_owned(),
            })
            .collect();
        format!("{path}?{}", pairs.join("&"))
    }
}

fn make_key(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut key = vec![0; 32];
    getrandom::fill(&mut key).map_err(std::io::Error::other)?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(mut file) => file.write_all(&key).map(|()| key),
        // Another process made it in the meantime.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => std::fs::read(path),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        Redactor::with_key(b"test", &["X-My-Pass".into()])
    }

    #[test]
    fn no_credential_survives_and_the_rest_does() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "x-api-key", "x-my-pass", "x-vendor-api-key"] {
            headers.insert(name, "sk-very-secret".parse().expect("a header value"));
        }
        headers.insert("accept", "text/event-stream".parse().expect("a header value"));
        let kept = redactor().headers(&headers);
        assert!(!format!("{kept:?}").contains("sk-very-secret"), "{kept:?}");
        assert_eq!(kept.get("accept"), Some("text/event-stream"));
        assert_eq!(
            kept.get("authorization"),
            kept.get("x-api-key"),
            "the same value has the same fingerprint"
        );
    }

    #[test]
    fn key_like_query_values_are_replaced() {
        let kept = redactor().target("/v1/models?key=sk-1&page=2&Api_Key=sk-1");
        assert!(!kept.contains("sk-1") && kept.contains("page=2"), "{kept}");
        assert_eq!(redactor().target("/v1/models"), "/v1/models");
    }

    #[test]
    fn fingerprints_depend_on_the_key() {
        assert_ne!(redactor().fingerprint(b"x"), Redactor::with_key(b"other", &[]).fingerprint(b"x"));
    }

    #[test]
    fn the_key_file_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("key");
        let first = Redactor::open(&path, &[]).expect("the key is made").fingerprint(b"x");
        assert_eq!(Redactor::open(&path, &[]).expect("the key is read").fingerprint(b"x"), first);
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("it exists").permissions())
                & 0o077,
            0
        );
    }
}
