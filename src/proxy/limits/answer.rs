use http::{HeaderMap, header};

/// Why nobody can tell where an upstream's HTTP/1 answer ends; none when everybody can. hyper has refused what it
/// cannot read itself.
pub(in crate::proxy) fn ambiguous(headers: &HeaderMap) -> Option<&'static str> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if codings.next().is_some() || coding.is_some_and(|c| !is_chunked(c.as_bytes())) {
        return Some("it has a Transfer-Encoding other than chunked");
    }
    if coding.is_some() && length.is_some() {
        return Some("it has both Content-Length and Transfer-Encoding");
    }
    if lengths.next().is_some() || length.is_some_and(|l| !l.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Some("it has more than one Content-Length");
    }
    None
}

fn is_chunked(value: &[u8]) -> bool {
    value.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_plain_length_or_one_chunked_is_clear() {
        let judge = |pairs: &[(&str, &str)]| {
            let map: HeaderMap = pairs
                .iter()
                .map(|(n, v)| (n.parse::<header::HeaderName>().expect("a name"), v.parse().expect("a value")))
                .collect();
            ambiguous(&map).is_none()
        };
        assert!(
            judge(&[]) && judge(&[("content-length", "3")]) && judge(&[("transfer-encoding", "Chunked")])
        );
        assert!(!judge(&[("content-length", "3"), ("content-length", "3")]));
        assert!(!judge(&[("content-length", "3, 3")]));
        assert!(!judge(&[("content-length", "3"), ("transfer-encoding", "chunked")]));
        assert!(!judge(&[("transfer-encoding", "gzip, chunked")]));
        assert!(!judge(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]));
    }
}
