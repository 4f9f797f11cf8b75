use http::{HeaderMap, HeaderName, header};

use crate::model::Scope;

/// Headers that speak to the next hop only (RFC 9110 §7.6.1), besides those that `Connection` names.
const HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Removes what must not be passed on. The others keep their order. `switching`: what asks for, or says, that the
/// connection changes its protocol stays; it is meant for both ends.
pub(super) fn remove_hop_headers(headers: &mut HeaderMap, switching: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // `TE: trailers` announces that trailers are understood; dropping it would drop them.
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    retain(headers, |name| {
        if switching && (name == header::CONNECTION || name == header::UPGRADE) {
            return true;
        }
        let hop = HOP.contains(name) || name == "proxy-connection" || named.contains(name);
        !hop || (trailers && name == header::TE)
    });
}

/// Keeps the headers that pass, in their order: [`HeaderMap::remove`] would put the last one into the gap.
fn retain(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) {
    if headers.keys().all(&keep) {
        return;
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut last = None;
    for (name, value) in headers.drain() {
        // A further value of the same header comes without its name.
        if let Some(name) = name {
            last = Some(name);
        }
        if let Some(name) = last.as_ref().filter(|name| keep(name)) {
            kept.append(name, value);
        }
    }
    *headers = kept;
}

/// Removes `Expect`, where it is not passed on: reading the body sends the client its 100.
pub(super) fn remove_expect(headers: &mut HeaderMap) {
    retain(headers, |name| name != header::EXPECT);
}

/// Whether a list such as `Connection: keep-alive, Upgrade` holds a token.
pub(super) fn lists(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// Removes the headers addressed to Remora.
pub(super) fn remove_remora_headers(headers: &mut HeaderMap) {
    retain(headers, |name| !name.as_str().starts_with("x-remora-"));
}

/// Whose traffic it is, as far as the headers tell.
pub(super) fn scope_of(headers: &HeaderMap) -> Scope {
    Scope::of_headers(|name| headers.get(name)?.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (n.parse::<HeaderName>().expect("a name"), v.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn headers_of_one_hop_go_and_the_others_stay() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("accept", "*/*"),
            ("te", "trailers"),
            ("x-twice", "1"),
            ("x-twice", "2"),
            ("authorization", "Bearer x"),
        ]);
        remove_hop_headers(&mut headers, false);
        let left: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left, ["accept", "te", "x-twice", "x-twice", "authorization"]);
    }

    #[test]
    fn a_switch_of_protocols_keeps_what_asks_for_it() {
        let pairs = [
            ("Connection", "keep-alive, Upgrade, X-Private"),
            ("x-private", "1"),
            ("upgrade", "websocket"),
            ("keep-alive", "1"),
        ];
        let mut headers = map(&pairs);
        assert!(lists(&headers, header::CONNECTION, "upgrade") && !lists(&headers, header::UPGRADE, "web"));
        remove_hop_headers(&mut headers, true);
        let left: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left, ["connection", "upgrade"]);
    }

    #[test]
    fn remora_headers_name_the_scope_and_are_not_forwarded() {
        let mut headers = map(&[("x-remora-app", "desk"), ("x-remora-session", "s"), ("accept", "*/*")]);
        assert_eq!(scope_of(&headers).to_string(), "default/desk");
        remove_remora_headers(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
