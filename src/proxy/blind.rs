//! Blind tunnels: where they may lead, and the bytes that go through them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use metrics::Counter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::config;
use crate::upstream::{Dialed, Setup};

/// Decides where tunnels may lead, and opens the way.
pub(super) struct Gate {
    ports: Vec<u16>,
    allow_local: bool,
    /// What Remora itself listens on.
    own: Vec<u16>,
    /// Whose proxy and patience count.
    upstream: config::Upstream,
    setup: Setup,
}

/// No tunnel.
pub(super) enum Refusal {
    Forbidden(String),
    Unreachable(String),
}

/// The other end: directly, or behind a proxy.
pub(super) type Far = Either<TcpStream, TokioIo<Dialed>>;

/// One address of several gets this long before the next is tried.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(3);
/// A tunnel in which nothing moves for this long is closed: its ends may be long gone.
const QUIET: Duration = Duration::from_secs(3600);
/// The same while Remora stops.
const QUIET_AT_THE_END: Duration = Duration::from_secs(1);
/// Bytes moved at once.
const BUFFER: usize = 16 << 10;

impl Gate {
    pub fn new(
        config: &config::ForwardProxy,
        upstream: &config::Upstream,
        own: &[u16],
        setup: Setup,
    ) -> Self {
        Self {
            ports: config.ports.clone(),
            allow_local: config.allow_local,
            own: own.to_vec(),
            upstream: upstream.clone(),
            setup,
        }
    }

    /// Connects to a host that a client named.
    pub async fn open(&self, host: &str, port: u16) -> Result<Far, Refusal> {
        if !self.ports.contains(&port) {
            return Err(Refusal::Forbidden(format!("port {port} is not among forward_proxy.ports")));
        }
        let unreachable = |reason: &dyn std::fmt::Display| {
            Refusal::Unreachable(format!("cannot connect to {host}:{port}: {reason}"))
        };
        let uri: Uri = format!("https://{host}:{port}/").parse().map_err(|e| unreachable(&e))?;
        let patience = self.upstream.connect_timeout.0;
        let connecting = async {
            match self.setup.proxied(&uri, &self.upstream, "upstream").map_err(|e| unreachable(&e))? {
                Some(mut dialer) => {
                    if let Some(ip) = literal(host) {
                        self.check(SocketAddr::new(ip, port), is_local(ip))?;
                    }
                    let stream = dialer.call(uri.clone()).await.map_err(|e| unreachable(&e))?;
                    Ok(Either::Right(TokioIo::new(stream)))
                }
                None => self.direct(host, port).await.map(Either::Left),
            }
        };
        let too_slow =
            || unreachable(&format_args!("no connection within {}", humantime::format_duration(patience)));
        tokio::time::timeout(patience, connecting).await.unwrap_or_else(|_| Err(too_slow()))
    }

    /// The addresses are looked up once, checked, and then connected to: a second look-up might tell others.
    async fn direct(&self, host: &str, port: u16) -> Result<TcpStream, Refusal> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let unreachable = |reason: &dyn std::fmt::Display| {
            Refusal::Unreachable(format!("cannot connect to {host}:{port}: {reason}"))
        };
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((bare, port)).await.map_err(|e| unreachable(&e))?.collect();
        let mut last = unreachable(&"it has no address");
        for address in addresses {
            if let Err(refusal) = self.check(address, is_local(address.ip())) {
                last = refusal;
                continue;
            }
            match tokio::time::timeout(ADDRESS_PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // To an address of its own, a machine speaks from that address.
                    let ours = stream.local_addr().is_ok_and(|own| own.ip() == address.ip());
                    self.check(address, ours || is_local(address.ip()))?;
                    drop(stream.set_nodelay(true));
                    return Ok(stream);
                }
                Ok(Err(error)) => last = unreachable(&error),
                Err(_) => last = unreachable(&"it does not answer"),
            }
        }
        Err(last)
    }

    fn check(&self, address: SocketAddr, local: bool) -> Result<(), Refusal> {
        if local && self.own.contains(&address.port()) {
            return Err(Refusal::Forbidden(format!("{address} is Remora itself")));
        }
        if local && !self.allow_local {
            let reason = format!("{address} is on this machine, and forward_proxy.allow_local is off");
            return Err(Refusal::Forbidden(reason));
        }
        Ok(())
    }
}

/// The address that a host means without being looked up. Behind a proxy, looking up is the proxy's affair.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    bare.parse().ok()
}

/// Whether an address means this machine or its link (where, for one, clouds hand out credentials).
fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_multicast()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || ip.is_multicast()
        }
    }
}

/// Moves bytes both ways until both sides have ended, one breaks off, or nothing moves any longer. One side may end and
/// still listen to the other.
pub(super) async fn pipe(
    client: impl AsyncRead + AsyncWrite,
    server: impl AsyncRead + AsyncWrite,
    [up, down]: [Counter; 2],
    stopping: CancellationToken,
) {
    let moved = AtomicU64::new(0);
    let (client_reads, client_writes) = tokio::io::split(client);
    let (server_reads, server_writes) = tokio::io::split(server);
    let both = async {
        tokio::try_join!(
            one_way(client_reads, server_writes, &moved, &up),
            one_way(server_reads, client_writes, &moved, &down),
        )
    };
    tokio::select! {
        ended = both => if let Err(error) = ended {
            tracing::debug!(%error, "a tunnel broke off");
        },
        () = quiet(&moved, &stopping) => {}
    }
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
    bytes: &Counter,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        moved.fetch_add(n as u64, Ordering::Relaxed);
        bytes.increment(n as u64);
    }
}

/// Resolves when nothing has moved for a long time; a short one once Remora stops.
async fn quiet(moved: &AtomicU64, stopping: &CancellationToken) {
    loop {
        let before = moved.load(Ordering::Relaxed);
        let ending = stopping.is_cancelled();
        tokio::select! {
            () = tokio::time::sleep(if ending { QUIET_AT_THE_END } else { QUIET }) => {
                if moved.load(Ordering::Relaxed) == before {
                    return;
                }
            }
            () = stopping.cancelled(), if !ending => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_look_up_is_known() {
        for local in ["localhost", "LocalHost.", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
            assert!(literal(local).is_some_and(is_local), "{local}");
        }
        assert_eq!(literal("8.8.8.8"), Some(IpAddr::from([8, 8, 8, 8])));
        assert_eq!(literal("llm.example"), None);
    }

    #[test]
    fn addresses_of_this_machine_and_its_link_are_known() {
        for local in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_local(local.parse().expect("an address")), "{local}");
        }
        for other in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "2001:db8::1", "fd00::1"] {
            assert!(!is_local(other.parse().expect("an address")), "{other}");
        }
    }
}
