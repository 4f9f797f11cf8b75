use std::fmt;
use std::path::PathBuf;

use http::uri::Authority;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Problem, Span};

/// `upstream:` — where requests go; also that of each of the `routes:`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Base URL: scheme, host, port and an optional path prefix. The client's path is added to it. Or [`EMBEDDED`].
    pub url: String,
    pub http2: Http2,
    /// Establishing a connection, proxy and TLS included.
    pub connect_timeout: Span,
    /// From the request to the head of the response, connecting and uploading included. Long: a model may think before
    /// its first byte.
    pub response_timeout: Span,
    /// A connection at rest is kept this long; null: see [`idle`](Self::idle).
    pub idle_timeout: Option<Span>,
    /// PEM file of certificate authorities to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate, and those it depends on, that is shown to an upstream that asks for one.
    pub client_certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub client_key: Option<PathBuf>,
    pub proxy: UpstreamProxy,
    /// The URL is that of the [embedded](EMBEDDED) server: set by [`with_embedded_at`](crate::Config::with_embedded_at).
    #[serde(skip)]
    pub embedded: bool,
}

/// In place of a URL: the model of `serve`, which then answers in the process that proxies.
pub const EMBEDDED: &str = "embedded";

/// Whether HTTP/2 is spoken with the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Http2 {
    /// Over TLS where the upstream offers it.
    Auto,
    /// Always, also without TLS (h2c with prior knowledge).
    Always,
    Never,
}

/// The proxy on the way to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamProxy {
    /// As `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say; never to this machine itself.
    Environment,
    None,
    /// An http or https URL, perhaps with user and password.
    Url(String),
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            url: "https://api.openai.com".into(),
            http2: Http2::Auto,
            connect_timeout: Span::secs(10),
            response_timeout: Span::secs(600),
            idle_timeout: None,
            ca: None,
            client_certificate: None,
            client_key: None,
            proxy: UpstreamProxy::Environment,
            embedded: false,
        }
    }
}

impl Upstream {
    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
    }

    /// How long a connection at rest is kept. A request on a connection that the upstream is just closing is lost, so it
    /// must be less than the upstream's own limit. Servers of one's own, in clear, often close after 5 s (uvicorn, and
    /// so vLLM and SGLang; Node; llama.cpp), and a new connection to them costs next to nothing; load balancers before
    /// public APIs keep theirs for 60 s and more, and there TLS costs round trips.
    #[must_use]
    pub fn idle(&self) -> std::time::Duration {
        let usual = if self.is_https() { Span::secs(50) } else { Span::secs(4) };
        self.idle_timeout.unwrap_or(usual).0
    }

    /// Checks what types cannot; `at` is the section's YAML path.
    pub(super) fn check(&self, at: &str, wrong: &mut impl FnMut(&str, String)) {
        match self.url.parse::<http::Uri>() {
            _ if self.url == EMBEDDED => {}
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => {
                if uri.query().is_some() {
                    wrong(&format!("{at}.url"), "must not have a query".into());
                }
                if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
                    wrong(&format!("{at}.url"), "must not hold credentials: clients send their own".into());
                }
            }
            _ => wrong(
                &format!("{at}.url"),
                format!(
                    "{:?} is no http or https URL, such as https://api.openai.com, and not {EMBEDDED}",
                    self.url
                ),
            ),
        }
        for (name, span) in [
            ("connect_timeout", Some(self.connect_timeout)),
            ("response_timeout", Some(self.response_timeout)),
            ("idle_timeout", self.idle_timeout),
        ] {
            if span.is_some_and(|span| span.0.is_zero()) {
                wrong(&format!("{at}.{name}"), "must be longer than nothing".into());
            }
        }
        let pair = [("client_certificate", &self.client_certificate), ("client_key", &self.client_key)];
        for (mine, other) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            if mine.1.is_some() && other.1.is_none() {
                wrong(&format!("{at}.{}", other.0), format!("must be set where {} is", mine.0));
            }
        }
        if self.client_certificate.is_some() && !self.is_https() {
            let message = "needs an https URL: without TLS no certificate is shown";
            wrong(&format!("{at}.client_certificate"), message.into());
        }
        if let UpstreamProxy::Url(url) = &self.proxy
            && let Err(reason) = check_proxy(url)
        {
            wrong(&format!("{at}.proxy"), reason);
        }
    }
}

/// Whether a proxy's URL can be used; why not.
///
/// # Errors
/// The reason, without the URL's password.
pub fn check_proxy(url: &str) -> Result<(), String> {
    let uri: http::Uri =
        url.parse().map_err(|_| format!("{:?} is no URL, such as http://proxy:3128", masked(url)))?;
    match uri.scheme_str() {
        // curl takes a proxy without a scheme for an http one.
        Some("http" | "https") | None if uri.host().is_some() => Ok(()),
        Some(scheme) if scheme.starts_with("socks") => {
            Err(format!("{:?}: SOCKS is not supported, only http and https proxies", masked(url)))
        }
        _ => Err(format!(
            "{:?} is none of environment, none, and an http or https URL such as http://proxy:3128",
            masked(url)
        )),
    }
}

/// A URL without its credentials.
fn masked(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    url.rfind('@')
        .filter(|at| *at >= start)
        .map_or_else(|| url.to_owned(), |at| format!("{}***{}", &url[..start], &url[at..]))
}

impl fmt::Display for UpstreamProxy {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("environment"),
            Self::None => f.write_str("none"),
            Self::Url(url) => f.write_str(&masked(url)),
        }
    }
}

impl Serialize for UpstreamProxy {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UpstreamProxy {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // `none` and `null` are easily taken for each other.
        Ok(match Option::<String>::deserialize(d)?.as_deref() {
            None | Some("none") => Self::None,
            Some("environment") => Self::Environment,
            Some(url) => Self::Url(url.to_owned()),
        })
    }
}

/// One of the `routes:` — requests that go elsewhere than to the default upstream. All that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// The path begins with these segments.
    pub path: Option<String>,
    /// The request's `Host`, without a port; case does not matter.
    pub host: Option<String>,
    /// The JSON body's `model`; `*` stands for any characters, `?` for one.
    pub model: Option<String>,
    pub upstream: Upstream,
}

impl Route {
    pub(super) fn check(&self, at: &str, wrong: &mut impl FnMut(&str, String)) {
        if self.path.is_none() && self.host.is_none() && self.model.is_none() {
            wrong(
                at,
                "matches every request: set path, host or model, or change the default upstream".into(),
            );
        }
        if let Some(path) = &self.path
            && (!path.starts_with('/') || path.contains(['?', '#']))
        {
            wrong(&format!("{at}.path"), format!("{path:?} must begin with / and have no query"));
        }
        if let Some(host) = &self.host
            && (host.parse::<Authority>().map_or(true, |a| a.host() != host) || host.is_empty())
        {
            wrong(
                &format!("{at}.host"),
                format!("{host:?} must be a host name or address without scheme and port"),
            );
        }
        self.upstream.check(&format!("{at}.upstream"), wrong);
    }
}

/// Reports routes that say nothing of where they lead: the default URL would be a surprise.
pub(super) fn missing_urls(tree: &serde_json::Value, problems: &mut Vec<Problem>) {
    let routes = tree.get("routes").and_then(serde_json::Value::as_array);
    for (i, route) in routes.into_iter().flatten().enumerate() {
        if route.is_object() && route.pointer("/upstream/url").is_none() {
            let message = "is missing: where do these requests go?".to_owned();
            problems.push(Problem { path: format!("routes[{i}].upstream.url"), message });
        }
    }
}

/// `forward_proxy:` — for apps whose base URL cannot be changed, but that honour `HTTPS_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardProxy {
    pub enabled: bool,
    /// `host` or `host:port`: what is sent to these is decrypted with the local authority, recorded and encrypted again.
    pub hosts: Vec<String>,
    /// Other hosts are reached through blind tunnels, on these ports only.
    pub ports: Vec<u16>,
    /// Whether blind tunnels may lead to this machine itself: loopback, link-local and its own addresses.
    pub allow_local: bool,
}

impl Default for ForwardProxy {
    fn default() -> Self {
        Self {
            enabled: false,
            hosts: vec!["api.openai.com".into(), "api.anthropic.com".into()],
            ports: vec![443, 80],
            allow_local: false,
        }
    }
}

impl ForwardProxy {
    /// The hosts without their ports.
    #[must_use]
    pub fn host_names(&self) -> Vec<String> {
        let name =
            |host: &String| host.parse::<Authority>().map_or_else(|_| host.clone(), |a| a.host().to_owned());
        self.hosts.iter().map(name).collect()
    }

    pub(super) fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        for (i, host) in self.hosts.iter().enumerate() {
            let fine = host.parse::<Authority>().is_ok_and(|a| {
                let port = a.as_str().strip_prefix(a.host());
                let number = |port: &str| port.strip_prefix(':').is_some_and(|n| n.parse::<u16>().is_ok());
                !a.host().is_empty() && port.is_some_and(|port| port.is_empty() || number(port))
            });
            if !fine {
                wrong(
                    &format!("forward_proxy.hosts[{i}]"),
                    format!("{host:?} must be a host or host:port, such as api.openai.com"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError};

    fn problems(yaml: &str) -> Vec<String> {
        match Config::from_yaml(yaml, "test", |_| None) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
            Err(ConfigError::Read { .. }) => unreachable!("no file was read"),
        }
    }

    #[test]
    fn every_problem_of_upstreams_and_routes_has_its_path() {
        let found = problems(
            "upstream:\n  client_key: /k\n  proxy: socks5://u:secret@p:1\n\
             routes:\n- {}\n- path: v1\n  upstream: {url: ftp://x, idle_timeout: 0s}\n\
             - host: a:1\n  upstream: {url: http://x, client_certificate: /c, client_key: /k}\n\
             forward_proxy:\n  hosts: ['https://x', 'a:b', ok, 'ok:1']\n",
        );
        for path in [
            "upstream.client_certificate: must be set",
            "upstream.proxy: ",
            "routes[0]: matches every request",
            "routes[0].upstream.url: is missing",
            "routes[1].path: ",
            "routes[1].upstream.url: ",
            "routes[1].upstream.idle_timeout: ",
            "routes[2].host: ",
            "routes[2].upstream.client_certificate: ",
            "forward_proxy.hosts[0]: ",
            "forward_proxy.hosts[1]: ",
        ] {
            assert_eq!(found.iter().filter(|p| p.starts_with(path)).count(), 1, "{path} in {found:#?}");
        }
        assert_eq!(found.len(), 11, "{found:#?}");
        assert!(!found.iter().any(|p| p.contains("secret")), "{found:#?}");
    }

    #[test]
    fn a_route_has_all_settings_of_an_upstream_and_the_same_defaults() {
        let yaml =
            "routes:\n- model: gpt-4*\n  upstream:\n    url: http://127.0.0.1:8000\n    http2: never\n";
        let config = Config::from_yaml(yaml, "test", |_| None).expect("it is fine");
        let expected =
            Upstream { url: "http://127.0.0.1:8000".into(), http2: Http2::Never, ..Upstream::default() };
        assert_eq!(config.routes[0].upstream, expected);
    }

    #[test]
    fn a_proxys_password_is_never_shown() {
        let yaml = "upstream:\n  proxy: http://user:hunter2@proxy:3128\n";
        let config = Config::from_yaml(yaml, "test", |_| None).expect("it is fine");
        let shown = serde_json::to_string(&config).expect("settings are plain data");
        assert!(!shown.contains("hunter2") && shown.contains("http://***@proxy:3128"), "{shown}");
        assert_eq!(config.upstream.proxy, UpstreamProxy::Url("http://user:hunter2@proxy:3128".into()));
    }

    #[test]
    fn connections_to_servers_of_ones_own_rest_for_a_shorter_time() {
        let at = |url: &str| Upstream { url: url.into(), ..Upstream::default() };
        assert!(at("http://127.0.0.1:8000").idle().as_secs() < 5);
        assert!(at("https://api.openai.com").idle().as_secs() < 60);
        let asked = Upstream { idle_timeout: Some(Span::secs(90)), ..at("http://127.0.0.1:8000") };
        assert_eq!(asked.idle().as_secs(), 90);
    }
}
