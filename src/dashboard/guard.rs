//! What holds for every request and every answer, whatever the route.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Nothing may run and nothing may be fetched but our own stylesheet and icon: a trace that got through the escaping
/// would still be inert.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex")),
];

/// The names that the dashboard may be reached under.
#[derive(Clone, Debug)]
pub(super) struct Hosts(Arc<[String]>);

impl Hosts {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names.into_iter().map(|n| plain(&n)).collect())
    }

    /// A page of another site may point its own name at this machine (DNS rebinding) and then read the dashboard as
    /// its own origin. It cannot do so under an address or under a name that is always this machine.
    fn allows(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            return v6.parse::<std::net::Ipv6Addr>().is_ok();
        }
        let name = plain(host);
        name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.0.contains(&name)
    }
}

/// Lower case, without the dot that ends an absolute name.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The authority without its port; none where what follows the host is no port.
fn host_of(authority: &str) -> Option<&str> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(end);
    let port_is_fine =
        port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    (port_is_fine && !host.is_empty()).then_some(host)
}

/// Refuses foreign host names and everything that could change something; adds the headers.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&hosts, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, value);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn refusal(hosts: &Hosts, request: &Request) -> Option<Response> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let text = "The dashboard only reads: GET and HEAD.\n";
        return Some((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], text).into_response());
    }
    // HTTP/2 and absolute targets name the host in the URI; where both are there, both must pass.
    let named = request.headers().get_all(HOST).iter().map(|h| h.to_str().unwrap_or_default());
    let mut named = request.uri().authority().map(|a| a.as_str()).into_iter().chain(named).peekable();
    if named.peek().is_some() && named.all(|n| hosts.allows(n)) {
        return None;
    }
    let text = "The dashboard answers to localhost, to IP addresses and to the host names allowed in the \
                configuration of the admin listener.\n";
    Some((StatusCode::MISDIRECTED_REQUEST, text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names_and_addresses_are_allowed() {
        let hosts = Hosts::new(vec!["Remora.Example.".into()]);
        for host in [
            "localhost",
            "localhost:4142",
            "LOCALHOST.",
            "demo.localhost:1",
            "127.0.0.1:4142",
            "10.1.2.3",
            "[::1]:4142",
            "[fe80::1]",
            "remora.example",
            "REMORA.example:80",
        ] {
            assert!(hosts.allows(host), "{host}");
        }
    }

    #[test]
    fn foreign_names_are_refused_however_they_are_dressed_up() {
        let hosts = Hosts::new(vec!["remora.example".into()]);
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evillocalhost",
            "127.0.0.1.evil.example",
            "[::1",
            "[evil]",
            "localhost:80@evil.example",
            "evil.example:80",
            "remora.example.evil",
            "127.0.0.1:80.evil.example",
            ":80",
        ] {
            assert!(!hosts.allows(host), "{host}");
        }
    }
}
