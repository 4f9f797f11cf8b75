//! Proxies on the way to upstreams.

use remora::config::{Http2, UpstreamProxy};
use remora::model::Ended;

use crate::harness::{
    Authority, ConnectProxy, Connection, Offer, Part, Peer, Process, Sidecar, Upstream, plain,
};

/// A Remora with this upstream, behind this proxy.
async fn behind(proxy: &str, upstream: &str, authority: &Authority, http2: Http2) -> Sidecar {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ca = folder.path().join("ca.pem");
    authority.write(&ca);
    Sidecar::configured(upstream, |c| {
        c.upstream.ca = Some(ca);
        c.upstream.http2 = http2;
        c.upstream.proxy = UpstreamProxy::Url(proxy.to_owned());
    })
    .await
}

#[tokio::test]
async fn an_https_upstream_is_reached_through_a_tunnel_and_verified_by_its_name() {
    let authority = Authority::new();
    for (http2, version) in [(Http2::Auto, http::Version::HTTP_2), (Http2::Never, http::Version::HTTP_11)] {
        let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"through")]).await;
        let proxy = ConnectProxy::to(peer.port()).await;
        let url = format!("http://user:p%40ss@{}", proxy.address);
        // No name server knows this name: only the proxy can.
        let sidecar = behind(&url, "https://llm.example/base", &authority, http2).await;
        let answer = sidecar.post("/v1/x", "Proxy-Authorization: Basic Y2xpZW50\r\n", b"{ }").await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"through".as_slice()));
        let (seen, heads) = (peer.seen(), proxy.heads());
        assert_eq!(
            (seen[0].path.as_str(), &seen[0].body[..], seen[0].version),
            ("/base/v1/x", &b"{ }"[..], version)
        );
        assert_eq!(peer.asked_for(), [Some("llm.example".to_owned())]);
        assert_eq!(heads.len(), 1);
        assert_eq!(
            heads[0],
            "CONNECT llm.example:443 HTTP/1.1\r\nHost: llm.example:443\r\n\
             Proxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
        );
        let recorded = sidecar.recorded(1).await;
        assert_eq!(recorded[0].upstream, "https://llm.example/base");
        let everything = format!("{recorded:?}");
        assert!(!everything.contains("Y2xpZW50") && !everything.contains("dXNlcjpwQHNz"), "{everything}");
    }
}

#[tokio::test]
async fn a_proxy_may_be_reached_over_tls_and_is_verified_then() {
    let authority = Authority::new();
    let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"through")]).await;
    let proxy = ConnectProxy::over_tls(peer.port(), &authority).await;
    let url = format!("https://localhost:{}", proxy.address.port());
    let sidecar = behind(&url, "https://llm.example", &authority, Http2::Auto).await;
    assert_eq!(sidecar.post("/v1/x", "", b"{}").await.body, b"through");
    assert_eq!(peer.seen()[0].version, http::Version::HTTP_2);

    let proxy = ConnectProxy::over_tls(peer.port(), &Authority::new()).await;
    let url = format!("https://localhost:{}", proxy.address.port());
    let sidecar = behind(&url, "https://llm.example", &authority, Http2::Auto).await;
    let answer = sidecar.post("/v1/x", "", b"{}").await;
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 502 && said.contains("the proxy") && said.contains("certificate"), "{said}");
    assert!(proxy.heads().is_empty(), "no credentials for a stranger");
}

#[tokio::test]
async fn behind_a_proxy_a_certificate_for_another_name_or_address_is_refused() {
    let authority = Authority::new();
    let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"never")]).await;
    let proxy = ConnectProxy::to(peer.port()).await;
    let url = format!("http://{}", proxy.address);
    for other in ["https://other.example", "https://10.9.9.9", "https://[2001:db8::1]"] {
        let sidecar = behind(&url, other, &authority, Http2::Auto).await;
        let answer = sidecar.post("/v1/x", "", b"{}").await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 502 && said.contains("certificate"), "{other}: {said}");
    }
    assert!(peer.seen().is_empty());
}

#[tokio::test]
async fn a_proxy_that_refuses_or_fails_is_named_in_the_502() {
    let authority = Authority::new();
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound")
    };
    let refusing =
        ConnectProxy::refusing("HTTP/1.1 407 Proxy Authentication Required\r\nA: b\r\n\r\nno").await;
    let other = ConnectProxy::refusing("SSH-2.0-x\r\n\r\n").await;
    let silent = ConnectProxy::refusing("").await;
    for (address, words) in [
        (gone, "cannot be reached: "),
        (refusing.address, "refused: 407 Proxy Authentication Required"),
        (other.address, "did not answer in HTTP"),
        (silent.address, "broke off: "),
    ] {
        let url = format!("http://{address}");
        let sidecar = behind(&url, "https://llm.example", &authority, Http2::Auto).await;
        let answer = sidecar.post("/v1/x", "", b"{}").await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 502, "{said}");
        assert!(said.contains(words) && said.contains(&address.to_string()), "{said}");
        assert_eq!(sidecar.recorded(1).await[0].ended, Ended::UpstreamReset);
    }
}

#[tokio::test]
async fn an_http_upstream_behind_a_proxy_is_asked_for_by_its_whole_url() {
    // The scripted upstream plays the proxy, which answers itself.
    let proxy = Upstream::always(plain("200 OK", "", b"from afar")).await;
    let url = format!("http://user:pass@{}", proxy.address);
    let sidecar = behind(&url, "http://llm.example:8000/base", &Authority::new(), Http2::Auto).await;
    let answer =
        sidecar.post("/v1/x?y=z", "X-Kept: 1\r\nProxy-Authorization: Basic Y2xpZW50\r\n", b"{ }").await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"from afar".as_slice()));
    let seen = &proxy.requests()[0];
    assert_eq!(
        seen.head.to_ascii_lowercase(),
        "post http://llm.example:8000/base/v1/x?y=z http/1.1\r\nhost: llm.example:8000\r\nx-kept: 1\r\n\
         content-length: 3\r\nproxy-authorization: basic dxnlcjpwyxnz"
    );
    assert_eq!(seen.body, b"{ }");
    assert_eq!(sidecar.recorded(1).await[0].upstream, "http://llm.example:8000/base");
}

#[tokio::test]
async fn http2_in_clear_goes_through_a_tunnel() {
    let peer = Peer::start(Offer::Clear, |_| vec![Part::Data(b"clear")]).await;
    let proxy = ConnectProxy::to(peer.port()).await;
    let url = format!("http://{}", proxy.address);
    let sidecar = behind(&url, "http://llm.example", &Authority::new(), Http2::Always).await;
    assert_eq!(sidecar.post("/v1/x", "", b"{}").await.body, b"clear");
    assert_eq!(peer.seen()[0].version, http::Version::HTTP_2);
    assert!(proxy.heads()[0].starts_with("CONNECT llm.example:80 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn the_environments_proxy_is_taken_unless_the_environment_or_the_configuration_says_no() {
    let authority = Authority::new();
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let ca = scratch.path().join("authority.pem");
    authority.write(&ca);
    let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"through")]).await;
    let proxy = ConnectProxy::to(peer.port()).await;
    let address = format!("http://{}", proxy.address);
    let (own, everything) = ("llm.example", "*");
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);
    let cases: [Case; 4] = [
        ("environment", &[("https_proxy", &address), ("HTTP_PROXY", "http://127.0.0.1:1")], true),
        ("environment", &[("ALL_PROXY", &address), ("no_proxy", own)], false),
        ("environment", &[("HTTPS_PROXY", &address), ("NO_PROXY", everything)], false),
        ("none", &[("HTTPS_PROXY", &address)], false),
    ];
    for (setting, variables, used) in cases {
        let before = proxy.heads().len();
        let data = tempfile::tempdir().expect("a temporary directory");
        let more = format!("upstream:\n  proxy: {setting}\n  ca: {}\n  connect_timeout: 5s\n", ca.display());
        let process =
            Process::with("https://llm.example", data.path(), scratch.path(), &more, variables).await;
        let mut connection = Connection::open(&process.proxy).await;
        connection.post("/v1/x", "", b"{}").await;
        // Without the proxy nobody knows the name.
        assert_eq!(connection.answer().await.status, if used { 200 } else { 502 }, "{setting} {variables:?}");
        assert_eq!(proxy.heads().len() - before, usize::from(used), "{setting} {variables:?}");
    }
}
