use http::{HeaderMap, header};

/// Types of which every kind is a file.
const FAMILIES: [&str; 4] = ["audio/", "font/", "image/", "video/"];

/// Further types that are files: an upload, a download, an archive.
const TYPES: [&str; 7] = [
    "multipart/form-data",
    "application/octet-stream",
    "application/pdf",
    "application/zip",
    "application/gzip",
    "application/x-tar",
    "application/zstd",
];

/// Whether the body that these headers announce is a file: what is said about it matters to a record, its bytes do not.
pub(super) fn announced(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let kind = kind.split(';').next().unwrap_or_default().trim().as_bytes();
    let begins = |family: &str| {
        kind.len() >= family.len() && kind[..family.len()].eq_ignore_ascii_case(family.as_bytes())
    };
    // A picture that is written as text.
    let written = kind.eq_ignore_ascii_case(b"image/svg+xml");
    (FAMILIES.iter().any(|f| begins(f)) && !written)
        || TYPES.iter().any(|t| kind.eq_ignore_ascii_case(t.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_type() {
        for (kind, file) in [
            ("multipart/form-data; boundary=x", true),
            ("Audio/MPEG", true),
            ("image/png", true),
            ("application/octet-stream", true),
            ("image/svg+xml", false),
            ("application/json", false),
            ("text/event-stream; charset=utf-8", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
            assert_eq!(announced(&headers), file, "{kind}");
        }
        assert!(!announced(&HeaderMap::new()));
    }
}
