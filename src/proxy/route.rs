use http::request::Parts;
use http::{HeaderMap, Uri, header};
use hyper::body::Incoming;

use super::model_name::{Found, Reader};
use super::peeked::Peeked;
use super::upload::Upload;
use crate::capture::RequestTee;
use crate::config::{self, Config};
use crate::upstream::{HttpUpstream, Setup, SetupError};

/// A request's body on its way to the upstream.
pub type RequestBody = Peeked<RequestTee<Upload<Incoming>>>;

/// An upstream of requests that came through the proxy.
pub type Upstream = HttpUpstream<RequestBody>;

/// Decides which upstream a request goes to: the first route that matches, else the default one.
pub struct Routes {
    routes: Vec<Route>,
    default: Upstream,
}

struct Route {
    path: Option<String>,
    host: Option<String>,
    model: Option<String>,
    upstream: Upstream,
}

/// Where a request without a matching route goes.
#[derive(Clone, Copy)]
pub(super) struct Otherwise<'a> {
    pub upstream: &'a Upstream,
    /// The host that the client named when it took us for a forward proxy; none: the request's own `Host` counts.
    pub host: Option<&'a str>,
}

impl Routes {
    /// The upstreams of a configuration; none is connected to yet.
    ///
    /// # Errors
    /// When certificates cannot be read, or a proxy on the way cannot be used: with the YAML path.
    pub fn build(config: &Config, setup: &Setup) -> Result<Self, SetupError> {
        let route = |(i, route): (usize, &config::Route)| {
            Ok(Route {
                path: route.path.clone(),
                host: route.host.clone(),
                model: route.model.clone(),
                upstream: HttpUpstream::build(&route.upstream, &format!("routes[{i}].upstream"), setup)?,
            })
        };
        Ok(Self {
            routes: config.routes.iter().enumerate().map(route).collect::<Result<_, SetupError>>()?,
            default: HttpUpstream::build(&config.upstream, "upstream", setup)?,
        })
    }

    /// Where requests go that no route matches.
    pub(super) fn default(&self) -> Otherwise<'_> {
        Otherwise { upstream: &self.default, host: None }
    }

    /// The upstream, as far as the head of the request tells; none: it depends on the model.
    pub(super) fn by_head<'a>(&'a self, parts: &Parts, otherwise: Otherwise<'a>) -> Option<&'a Upstream> {
        match self.candidates(parts, otherwise).next() {
            None => Some(otherwise.upstream),
            Some(Route { model: None, upstream, .. }) => Some(upstream),
            Some(_) => None,
        }
    }

    /// The upstream of a request whose model counts. Reads as much of the body as it takes to find that.
    pub(super) async fn by_model<'a>(
        &'a self,
        parts: &Parts,
        otherwise: Otherwise<'a>,
        body: &mut RequestBody,
    ) -> &'a Upstream {
        let model = model(&parts.headers, body).await;
        let matches = |route: &&Route| match (&route.model, &model) {
            (None, _) => true,
            (Some(pattern), Some(model)) => is_like(model.as_bytes(), pattern.as_bytes()),
            (Some(_), None) => false,
        };
        self.candidates(parts, otherwise).find(matches).map_or(otherwise.upstream, |route| &route.upstream)
    }

    /// The routes whose path and host match.
    fn candidates<'a, 'p>(
        &'a self,
        parts: &'p Parts,
        otherwise: Otherwise<'p>,
    ) -> impl Iterator<Item = &'a Route> + use<'a, 'p> {
        let (path, uri, headers) = (parts.uri.path(), &parts.uri, &parts.headers);
        self.routes.iter().filter(move |route| {
            let host = |wanted: &String| {
                otherwise
                    .host
                    .or_else(|| host_of(uri, headers))
                    .is_some_and(|h| h.eq_ignore_ascii_case(wanted))
            };
            route.path.as_ref().is_none_or(|prefix| is_below(path, prefix))
                && route.host.as_ref().is_none_or(host)
        })
    }
}

async fn model(headers: &HeaderMap, body: &mut RequestBody) -> Option<String> {
    let mut reader = Reader::of(headers)?;
    loop {
        match reader.read(body.peek().await?) {
            Found::Model(model) => return Some(model),
            Found::None => return None,
            Found::NotYet => {}
        }
    }
}

/// The host that a request names, without its port.
fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    // HTTP/2 has it in the target.
    if let Some(host) = uri.host() {
        return Some(host);
    }
    let host = headers.get(header::HOST)?.to_str().ok()?;
    // The colons within brackets are an address's.
    Some(match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    })
}

/// Whether a path begins with whole segments of another one.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// Whether a text is like a pattern, in which `*` stands for any bytes and `?` for one character.
fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    let (mut t, mut p) = (0, 0);
    // After the last star: where to go on in the pattern, and how much of the text the star has taken.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(b'?') => {
                p += 1;
                t += 1;
                while text.get(t).is_some_and(|b| b & 0xc0 == 0x80) {
                    t += 1;
                }
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut retry {
                Some((after, taken)) => {
                    *taken += 1;
                    (p, t) = (*after, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_matches_at_the_boundaries_of_its_segments() {
        for (path, prefix, below) in [
            ("/v1/audio", "/v1/audio", true),
            ("/v1/audio/speech", "/v1/audio", true),
            ("/v1/audiobook", "/v1/audio", false),
            ("/v1/audio", "/v1/audio/", false),
            ("/v1/audio/", "/v1/audio/", true),
            ("/v1/audio/speech", "/v1/audio/", true),
            ("/v1", "/v1/audio", false),
            ("/V1/audio", "/v1/audio", false),
            ("/anything", "/", true),
        ] {
            assert_eq!(is_below(path, prefix), below, "{path} below {prefix}");
        }
    }

    #[test]
    fn a_model_matches_its_pattern_as_a_whole() {
        for (model, pattern, like) in [
            ("gpt-4o-mini", "gpt-4*", true),
            ("gpt-4", "gpt-4*", true),
            ("my-gpt-4", "gpt-4*", false),
            ("my-gpt-4", "*gpt-4", true),
            ("a/b/c", "*/*", true),
            ("abcbd", "a*b?", true),
            ("abcb", "a*b?", false),
            ("gpt-4", "gpt-4", true),
            ("GPT-4", "gpt-4", false),
            ("gpt-4", "gpt-?", true),
            ("gpt-é", "gpt-?", true),
            ("", "*", true),
            ("", "", true),
            ("a", "", false),
        ] {
            assert_eq!(is_like(model.as_bytes(), pattern.as_bytes()), like, "{model} like {pattern}");
        }
    }

    #[test]
    fn the_host_counts_without_its_port() {
        for (host, expected) in [("a.b", "a.b"), ("a.b:81", "a.b"), ("[::1]", "[::1]"), ("[::1]:81", "[::1]")]
        {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().expect("a value"))]);
            assert_eq!(host_of(&Uri::from_static("/x"), &headers), Some(expected));
        }
        assert_eq!(host_of(&Uri::from_static("http://a.b:81/x"), &HeaderMap::new()), Some("a.b"));
    }
}
