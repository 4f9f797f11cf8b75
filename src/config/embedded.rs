//! The model of `serve` in the process that proxies: what follows from an upstream that is called `embedded`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Config, EMBEDDED, Span, SwapTarget, TargetKind, Upstream};

/// For each request to it; it may have a model to open first.
const PATIENCE: Span = Span::secs(60);

impl Config {
    /// Whether an upstream is the model of `serve`, in the process that proxies.
    #[must_use]
    pub fn embeds_server(&self) -> bool {
        std::iter::once(&self.upstream)
            .chain(self.routes.iter().map(|route| &route.upstream))
            .any(|upstream| upstream.url == EMBEDDED)
    }

    /// These settings with a URL for the embedded server: `at`, where it listens, or else what `serve.listen` says.
    #[must_use]
    pub fn with_embedded_at(&self, at: Option<SocketAddr>) -> Self {
        let mut resolved = self.clone();
        let Some(url) = at.or_else(|| self.serve.listen.parse().ok()).map(url) else { return resolved };
        let upstreams: [&mut Upstream; 1] = [&mut resolved.upstream];
        for upstream in upstreams.into_iter().chain(resolved.routes.iter_mut().map(|r| &mut r.upstream)) {
            if upstream.url == EMBEDDED {
                upstream.url.clone_from(&url);
                upstream.embedded = true;
            }
        }
        resolved
    }

    /// The embedded server as one that takes adapters: `at`, where it listens, or else what these settings say of it.
    #[must_use]
    pub fn embedded_target(&self, at: Option<SocketAddr>) -> Option<SwapTarget> {
        let address = at.or_else(|| self.serve.listen.parse().ok().filter(|_| self.embeds_server()))?;
        Some(SwapTarget {
            kind: TargetKind::Serve,
            url: url(address),
            scope: None,
            api_key: self.serve.api_key.clone(),
            directory: None,
            timeout: PATIENCE,
        })
    }

    pub(super) fn check_embedded(&self, wrong: &mut impl FnMut(&str, String)) {
        let is_unknown = self.serve.listen.parse::<SocketAddr>().is_ok_and(|address| address.port() == 0);
        if self.embeds_server() && is_unknown {
            let message = format!(
                "must have a port where an upstream is {EMBEDDED}: nights and `remora adapters` load adapters over it"
            );
            wrong("serve.listen", message);
        }
    }
}

/// An address as programs of this machine reach it.
fn url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str) -> Result<Config, String> {
        Config::from_yaml(yaml, "test", |_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn the_embedded_server_is_an_upstream_and_takes_adapters() {
        let config =
            load("upstream: {url: embedded}\nserve: {listen: '0.0.0.0:9', api_key: k}").expect("right");
        let target = config.embedded_target(None).expect("there is one");
        assert_eq!(target.url, "http://127.0.0.1:9");
        assert_eq!(target.api_key.as_ref().map(crate::config::Secret::reveal), Some("k"));
        assert_eq!(config.with_embedded_at(None).upstream.url, "http://127.0.0.1:9");
        let at = "[::]:7".parse().ok();
        assert_eq!(Config::default().embedded_target(at).expect("it runs").url, "http://[::1]:7");
        assert_eq!(config.with_embedded_at(at).upstream.url, "http://[::1]:7");

        let routed = "routes:\n- {model: 'tickets*', upstream: {url: embedded}}\n";
        let config = load(routed).expect("right");
        assert!(config.embeds_server());
        let resolved = config.with_embedded_at(None);
        assert_eq!(resolved.routes[0].upstream.url, "http://127.0.0.1:4143");
        assert_eq!(resolved.upstream, config.upstream);
    }

    #[test]
    fn without_the_word_nothing_is_embedded_and_with_it_a_port_is_needed() {
        assert!(!Config::default().embeds_server() && Config::default().embedded_target(None).is_none());
        let said = load("upstream: {url: embedded}\nserve: {listen: '127.0.0.1:0'}").expect_err("no port");
        assert!(said.contains("serve.listen: must have a port"), "{said}");
        assert!(load("serve: {listen: '127.0.0.1:0'}").is_ok());
    }
}
