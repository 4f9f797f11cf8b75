//! Which proxy stands between us and an upstream, if any.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use super::SetupError;
use crate::config::{UpstreamProxy, check_proxy};

/// A proxy that connections go through.
#[derive(Clone)]
pub(super) struct Proxy {
    /// Scheme, host and port only.
    pub uri: Uri,
    /// For `Proxy-Authorization`.
    pub credentials: Option<HeaderValue>,
}

/// The proxy for connections to `to`; none: they are direct. `own`: where Remora itself listens; with `HTTPS_PROXY` set
/// to that for the app, and found in our environment, too, we would go round in circles.
///
/// # Errors
/// When the proxy that would be used is none that we can use. `at` is the YAML path of the setting.
pub(super) fn find(
    to: &Uri,
    setting: &UpstreamProxy,
    at: &str,
    own: Option<SocketAddr>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, SetupError> {
    let failed = |reason: String| SetupError::Proxy { at: at.to_owned(), reason };
    let matcher = match setting {
        UpstreamProxy::None => return Ok(None),
        UpstreamProxy::Url(url) => {
            check_proxy(url).map_err(failed)?;
            Matcher::builder().all(url.as_str()).build()
        }
        UpstreamProxy::Environment => {
            // The order that curl has.
            let either = |name: &str| variable(&name.to_ascii_lowercase()).or_else(|| variable(name));
            let https = to.scheme_str() == Some("https");
            let name = if https { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            let Some((name, url)) = [name, "ALL_PROXY"].iter().find_map(|name| Some((*name, either(name)?)))
            else {
                return Ok(None);
            };
            let no = either("NO_PROXY").unwrap_or_default();
            let excepted = Matcher::builder().all("http://any").no(no).build().intercept(to).is_none();
            // Before the check: a variable that would not be used is no reason not to start.
            if excepted || to.host().is_none_or(is_loopback) {
                return Ok(None);
            }
            check_proxy(&url).map_err(|reason| failed(format!("{name}: {reason}; or set {at}: none")))?;
            Matcher::builder().all(url.as_str()).build()
        }
    };
    let Some(found) = matcher.intercept(to) else { return Ok(None) };
    let uri = found.uri().clone();
    if own.is_some_and(|own| leads_to(&uri, own)) {
        tracing::warn!(proxy = %uri, "the proxy for upstreams is Remora itself; connecting directly");
        return Ok(None);
    }
    Ok(Some(Proxy { uri, credentials: found.basic_auth().cloned() }))
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let local_name =
        host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    local_name || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn leads_to(proxy: &Uri, own: SocketAddr) -> bool {
    let Some(host) = proxy.host() else { return false };
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    proxy.port_u16() == Some(own.port()) && (is_loopback(host) || ip.is_ok_and(|ip| ip == own.ip()))
}

#[cfg(test)]
mod tests {
    use base64::Engine;

    use super::*;

    /// The proxy's address for a URL, in an environment.
    fn through(environment: &[(&str, &str)], to: &str) -> Result<Option<String>, String> {
        let variable =
            |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let own = Some("127.0.0.1:4141".parse().expect("an address"));
        let to = to.parse().expect("a URL");
        find(&to, &UpstreamProxy::Environment, "upstream.proxy", own, variable)
            .map(|found| found.map(|p| p.uri.to_string()))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let both = [("HTTPS_PROXY", "http://s:1"), ("HTTP_PROXY", "http://h:2")];
        let is = |url: &str| Ok(Some(url.to_owned()));
        assert_eq!(through(&both, "https://api.openai.com"), is("http://s:1/"));
        assert_eq!(through(&both, "http://10.0.0.9:8000"), is("http://h:2/"));
        assert_eq!(
            through(&[("https_proxy", "http://l:1"), ("HTTPS_PROXY", "http://u:1")], "https://a"),
            is("http://l:1/")
        );
        assert_eq!(through(&[("ALL_PROXY", "p:3128")], "https://a"), is("http://p:3128/"));
        assert_eq!(
            through(&[("ALL_PROXY", "http://all:1"), ("https_proxy", "http://s:1")], "https://a"),
            is("http://s:1/")
        );
        assert_eq!(through(&[("HTTPS_PROXY", "http://s:1")], "http://a"), Ok(None));
        assert_eq!(through(&[], "https://a"), Ok(None));
    }

    #[test]
    fn no_proxy_excepts_hosts_domains_and_networks() {
        let with = |no: &'static str, to: &str| through(&[("ALL_PROXY", "http://p:1"), ("NO_PROXY", no)], to);
        for (no, to) in [
            ("openai.com", "https://api.openai.com"),
            (".openai.com", "https://api.openai.com"),
            ("x, API.OpenAI.com", "https://api.openai.com"),
            ("10.0.0.0/8", "http://10.1.2.3:8000"),
            ("fd00::/8", "http://[fd00::7]:8000"),
            ("*", "https://api.openai.com"),
        ] {
            assert_eq!(with(no, to), Ok(None), "{no} excepts {to}");
        }
        for (no, to) in [("openai.com", "https://notopenai.com"), ("10.0.0.0/8", "http://11.1.2.3")] {
            assert!(with(no, to).is_ok_and(|p| p.is_some()), "{no} does not except {to}");
        }
    }

    #[test]
    fn this_machine_is_reached_directly_unless_a_proxy_is_named_for_it() {
        let all = [("ALL_PROXY", "http://p:1")];
        for to in ["http://localhost:1", "http://127.0.0.7:1", "https://[::1]:1", "http://a.localhost"] {
            assert_eq!(through(&all, to), Ok(None), "{to}");
        }
        let named = UpstreamProxy::Url("http://u:p%40ss@127.0.0.1:3128".into());
        let to = "http://127.0.0.1:8000".parse().expect("a URL");
        let proxy = find(&to, &named, "upstream.proxy", None, |_| None).expect("fine").expect("a proxy");
        assert_eq!(proxy.uri, "http://127.0.0.1:3128/");
        let credentials = proxy.credentials.expect("there are some");
        let expected = base64::prelude::BASE64_STANDARD.encode("u:p@ss");
        assert_eq!(credentials.to_str().expect("text"), format!("Basic {expected}"));
    }

    #[test]
    fn remora_is_never_its_own_proxy() {
        for own in ["http://127.0.0.1:4141", "http://localhost:4141", "http://[::1]:4141"] {
            assert_eq!(through(&[("HTTPS_PROXY", own)], "https://api.openai.com"), Ok(None), "{own}");
        }
        assert!(through(&[("HTTPS_PROXY", "http://127.0.0.1:3128")], "https://a").is_ok_and(|p| p.is_some()));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_only_where_it_would_be() {
        let socks = [("ALL_PROXY", "socks5://u:secret@p:1080"), ("NO_PROXY", "corp")];
        let said = through(&socks, "https://api.openai.com").expect_err("no SOCKS");
        assert!(said.contains("ALL_PROXY") && said.contains("SOCKS") && !said.contains("secret"), "{said}");
        assert_eq!(through(&socks, "https://llm.corp"), Ok(None));
        assert_eq!(through(&socks, "http://127.0.0.1:8000"), Ok(None));
    }
}
