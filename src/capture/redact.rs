//! Credentials never reach the disk: their values are replaced by a keyed fingerprint, the same for the same value.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, header};
use sha2::Sha256;

use crate::store::journal::HeaderLines;

/// Headers whose value is a credential although their names do not say so.
const SECRET_HEADERS: &[&str] = &[
    "cookie",
    "set-cookie",
    "helicone-auth",
    "x-amzn-oidc-data",
    // Browsers cannot set headers on a WebSocket, so realtime clients put the key here.
    "sec-websocket-protocol",
];

/// Headers whose value is a URL, perhaps with a credential in its query.
const URL_HEADERS: &[&str] = &["location", "content-location", "referer"];

/// Query parameters whose value is a credential although their names do not say so.
const SECRET_PARAMETERS: &[&str] = &["auth", "code", "sig", "password"];

/// Whether a name says that its value is a credential: `x-vendor-api-key`, `access_token`, `client_secret`, … Counts of
/// tokens (`x-ratelimit-remaining-tokens`) are none.
fn names_secret(name: &str) -> bool {
    let ends = ["key", "token", "signature", "credential"];
    let holds = ["authorization", "apikey", "api-key", "api_key", "secret", "jwt", "password"];
    ends.iter().any(|end| name.ends_with(end)) || holds.iter().any(|part| name.contains(part))
}

/// Which of them says who the client is, the most telling first.
const CLIENT_KEYS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Replaces credentials by fingerprints.
#[derive(Clone)]
pub struct Redactor {
    key: Hmac<Sha256>,
    more: Vec<String>,
    /// What was found of names and credentials: an app sends the same ones again and again.
    kinds: HashMap<HeaderName, Kind>,
    fingerprints: HashMap<Vec<u8>, String>,
}

/// What becomes of a header's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Secret,
    Url,
}

/// Names and credentials that are remembered, each; when there are more, all are forgotten.
const REMEMBERED: usize = 1024;
/// Credentials up to this many bytes are remembered: keys are, cookies may be long and change.
const SHORT: usize = 256;

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
            kinds: HashMap::new(),
            fingerprints: HashMap::new(),
        }
    }

    /// 64 bits of HMAC-SHA256, as 16 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&mut self, value: &[u8]) -> String {
        if let Some(known) = self.fingerprints.get(value) {
            return known.clone();
        }
        let mut mac = self.key.clone();
        mac.update(value);
        let fingerprint = hex::encode(&mac.finalize().into_bytes()[..8]);
        if self.fingerprints.len() >= REMEMBERED {
            self.fingerprints.clear();
        }
        if value.len() <= SHORT {
            self.fingerprints.insert(value.to_vec(), fingerprint.clone());
        }
        fingerprint
    }

    fn kind(&mut self, name: &HeaderName) -> Kind {
        if let Some(kind) = self.kinds.get(name) {
            return *kind;
        }
        let text = name.as_str();
        let kind =
            if SECRET_HEADERS.contains(&text) || names_secret(text) || self.more.iter().any(|h| h == text) {
                Kind::Secret
            } else if URL_HEADERS.contains(&text) {
                Kind::Url
            } else {
                Kind::Plain
            };
        if self.kinds.len() >= REMEMBERED {
            self.kinds.clear();
        }
        self.kinds.insert(name.clone(), kind);
        kind
    }

    /// Headers as they may be stored.
    #[must_use]
    pub fn headers(&mut self, headers: &HeaderMap) -> HeaderLines {
        let mut lines = HeaderLines::with_capacity(headers.len());
        for (name, value) in headers {
            match self.kind(name) {
                Kind::Plain => {
                    lines.push(name.as_str(), |line| {
                        line.push_str(&String::from_utf8_lossy(value.as_bytes()))
                    });
                }
                Kind::Secret => {
                    let fingerprint = self.fingerprint(value.as_bytes());
                    lines.push(name.as_str(), |line| {
                        line.push_str("[fingerprint ");
                        line.push_str(&fingerprint);
                        line.push(']');
                    });
                }
                Kind::Url => {
                    let url = self.target(&String::from_utf8_lossy(value.as_bytes()));
                    lines.push(name.as_str(), |line| line.push_str(&url));
                }
            }
        }
        lines
    }

    /// The fingerprint of the client's credential.
    #[must_use]
    pub fn client_key(&mut self, headers: &HeaderMap) -> Option<String> {
        let value = CLIENT_KEYS.iter().find_map(|name| headers.get(name))?;
        Some(self.fingerprint(value.as_bytes()))
    }

    /// A URL, or path and query, as they may be stored.
    #[must_use]
    pub fn target(&mut self, target: &str) -> String {
        let (path, mut rest) = target.split_at(target.find(['?', '#']).unwrap_or(target.len()));
        let mut kept = self.without_user(path);
        // A fragment holds what a query does, and URLs are written into URLs.
        while let Some(separator) = rest.chars().next() {
            let end = rest[1..].find(['&', '?', '#']).map_or(rest.len(), |at| at + 1);
            let pair = &rest[1..end];
            kept.push(separator);
            match pair.split_once('=') {
                Some((name, value)) if is_secret_parameter(name) => {
                    let fingerprint = self.fingerprint(value.as_bytes());
                    kept.push_str(&format!("{name}=[fingerprint%20{fingerprint}]"));
                }
                _ => kept.push_str(pair),
            }
            rest = &rest[end..];
        }
        kept
    }

    /// `https://user:password@host/` without what is before the host.
    fn without_user(&mut self, url: &str) -> String {
        let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                format!("{scheme}://[fingerprint%20{}]@{host}{path}", self.fingerprint(user.as_bytes()))
            }
            None => url.to_owned(),
        }
    }
}

fn is_secret_parameter(name: &str) -> bool {
    let name = percent_decoded(name).to_ascii_lowercase();
    SECRET_PARAMETERS.contains(&name.as_str()) || names_secret(&name)
}

/// A name with its `%XX` resolved; what is no such escape stays.
fn percent_decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        let escaped = match (first, more) {
            (b'%', [a, b, ..]) => {
                std::str::from_utf8(&[*a, *b]).ok().and_then(|h| u8::from_str_radix(h, 16).ok())
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn make_key(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut key = vec![0; 32];
    getrandom::fill(&mut key).map_err(std::io::Error::other)?;
    // Whole or not at all, and private from the start.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&key)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(key),
        // Another process made it in the meantime.
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => std::fs::read(path),
        Err(e) => Err(e.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::model::Headers;

    /// As it is read back.
    fn stored(lines: &HeaderLines) -> Headers {
        serde_json::from_value(serde_json::to_value(lines).expect("it serialises")).expect("it is read")
    }

    fn redactor() -> Redactor {
        Redactor::with_key(b"test", &["X-My-Pass".into()])
    }

    #[test]
    fn no_credential_survives_and_the_rest_does() {
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "x-forwarded-authorization",
            "cookie",
            "x-api-key",
            "apikey",
            "x-my-pass",
            "x-vendor-api-key",
            "x-functions-key",
            "private-token",
            "cf-access-jwt-assertion",
        ] {
            headers.insert(name, "sk-very-secret".parse().expect("a header value"));
        }
        headers.insert("accept", "text/event-stream".parse().expect("a header value"));
        headers.insert("x-ratelimit-remaining-tokens", "150000".parse().expect("a header value"));
        headers.insert("location", "https://x/y?sig=sk-very-secret&page=2".parse().expect("a header value"));
        let kept: Headers = stored(&redactor().headers(&headers));
        assert!(!format!("{kept:?}").contains("sk-very-secret"), "{kept:?}");
        assert_eq!(kept.get("accept"), Some("text/event-stream"));
        assert_eq!(kept.get("x-ratelimit-remaining-tokens"), Some("150000"));
        assert!(kept.get("location").is_some_and(|l| l.contains("page=2")));
        assert_eq!(
            kept.get("authorization"),
            kept.get("x-api-key"),
            "the same value has the same fingerprint"
        );
    }

    #[test]
    fn key_like_query_values_are_replaced() {
        let kept =
            redactor().target("/v1/models?key=sk-1&page=2&Api_Key=sk-1&api%5Fkey=sk-1&subscription-key=sk-1");
        assert!(!kept.contains("sk-1") && kept.contains("page=2"), "{kept}");
        assert_eq!(redactor().target("/v1/models"), "/v1/models");
        for url in [
            "https://app/cb#access_token=sk-1",
            "https://app/cb?a=b#id_token=sk-1&page=2",
            "https://me:sk-1@app/cb?page=2",
            "/v1/x?next=/y?api_key=sk-1",
        ] {
            let kept = redactor().target(url);
            assert!(!kept.contains("sk-1") && kept.contains(&url[..3]), "{kept}");
        }
        assert_eq!(redactor().target("/a?b=c&d#e=f"), "/a?b=c&d#e=f");
    }

    #[test]
    fn fingerprints_depend_on_the_key() {
        let mut other = Redactor::with_key(b"other", &[]);
        assert_ne!(redactor().fingerprint(b"x"), other.fingerprint(b"x"));
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
