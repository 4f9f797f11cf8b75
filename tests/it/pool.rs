//! Connections to upstreams that end at the wrong moment, move, or lead to another address family.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use remora::model::Ended;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{Connection, Sidecar, plain, until};

/// How an upstream leaves its connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    /// After each answer.
    AtOnce,
    /// When the test says so; in order, or with a reset.
    WhenTold { reset: bool },
    /// With a reset, as soon as it sees the second request of a connection.
    AtTheSecond,
}

/// An upstream whose connections do not last.
struct Fickle {
    url: String,
    port: u16,
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    go: watch::Sender<usize>,
}

impl Fickle {
    /// It answers when `together` requests have come.
    async fn start(leaves: Leaves, together: usize) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), leaves, together)
    }

    fn on(listener: TcpListener, leaves: Leaves, together: usize) -> Self {
        let address = listener.local_addr().expect("bound");
        let (go, told) = watch::channel(0);
        let fickle = Self {
            url: format!("http://{address}"),
            port: address.port(),
            open: Arc::default(),
            accepted: Arc::default(),
            requests: Arc::default(),
            go,
        };
        let (open, accepted, requests) =
            (fickle.open.clone(), fickle.accepted.clone(), fickle.requests.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    // Nobody holds the upstream any longer.
                    () = async { while told.clone().changed().await.is_ok() {} } => return,
                };
                open.fetch_add(1, Ordering::SeqCst);
                accepted.fetch_add(1, Ordering::SeqCst);
                let (open, requests, told) = (open.clone(), requests.clone(), told.clone());
                tokio::spawn(async move {
                    serve(stream, leaves, together, &requests, told).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        fickle
    }

    async fn all_closed(&self) {
        until("the upstream to close its connections", || {
            (self.open.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: TcpStream,
    leaves: Leaves,
    together: usize,
    requests: &AtomicUsize,
    mut told: watch::Receiver<usize>,
) {
    let before = *told.borrow_and_update();
    for nth in 1.. {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\nbody") {
            tokio::select! {
                read = stream.read_buf(&mut request) => if read.is_err() || read.is_ok_and(|n| n == 0) {
                    return;
                },
                _ = told.wait_for(|n| *n > before) => {
                    if leaves == (Leaves::WhenTold { reset: true }) {
                        stream.set_zero_linger().expect("it can be set");
                    }
                    return;
                }
            }
            if leaves == Leaves::AtTheSecond && nth == 2 {
                requests.fetch_add(1, Ordering::SeqCst);
                stream.set_zero_linger().expect("it can be set");
                return;
            }
        }
        let seen = requests.fetch_add(1, Ordering::SeqCst) + 1;
        // All of a batch are under way at once, so each has a connection of its own.
        let batch = seen.div_ceil(together) * together;
        until("the other requests of the batch", || (requests.load(Ordering::SeqCst) >= batch).then_some(()))
            .await;
        stream.write_all(&plain("200 OK", "", b"fine")).await.expect("sent");
        if leaves == Leaves::AtOnce {
            return;
        }
    }
}

/// Sends requests at once, over a connection each, and gives the statuses.
async fn post(clients: &mut [Connection]) -> Vec<u16> {
    for client in clients.iter_mut() {
        client.post("/v1/chat/completions", "", b"body").await;
    }
    let mut statuses = Vec::new();
    for client in clients {
        statuses.push(client.answer().await.status);
    }
    statuses
}

async fn clients(sidecar: &Sidecar, n: usize) -> Vec<Connection> {
    let mut clients = Vec::new();
    for _ in 0..n {
        clients.push(Connection::open(&sidecar.proxy).await);
    }
    clients
}

#[tokio::test]
async fn a_pool_of_connections_that_the_upstream_closed_costs_no_request() {
    const N: usize = 20;
    for reset in [false, true] {
        let upstream = Fickle::start(Leaves::WhenTold { reset }, N).await;
        let sidecar = Sidecar::start(&upstream.url).await;
        let mut clients = clients(&sidecar, N).await;
        for round in 1..=3 {
            assert_eq!(post(&mut clients).await, [200; N], "round {round}, reset: {reset}");
            assert_eq!(upstream.open.load(Ordering::SeqCst), N);
            upstream.go.send_modify(|n| *n += 1);
            upstream.all_closed().await;
        }
        assert_eq!(upstream.requests(), 3 * N, "each came once");
        assert_eq!(upstream.accepted.load(Ordering::SeqCst), 3 * N);
    }
}

#[tokio::test]
async fn an_upstream_that_closes_after_each_answer_costs_no_request() {
    let upstream = Fickle::start(Leaves::AtOnce, 1).await;
    let sidecar = Sidecar::start(&upstream.url).await;
    let mut clients = clients(&sidecar, 1).await;
    for _ in 0..50 {
        assert_eq!(post(&mut clients).await, [200]);
        upstream.all_closed().await;
        // On a busy machine the kernel may deliver the close after what is sent later; a turn on another connection
        // lets it catch up.
        assert_eq!(sidecar.page("/healthz").await.status, 200);
    }
    assert_eq!(upstream.requests(), 50);
}

#[tokio::test]
async fn a_post_of_which_the_upstream_may_have_seen_something_is_never_sent_again() {
    let upstream = Fickle::start(Leaves::AtTheSecond, 1).await;
    let sidecar = Sidecar::start(&upstream.url).await;
    let mut clients = clients(&sidecar, 1).await;
    assert_eq!(post(&mut clients).await, [200]);
    assert_eq!(post(&mut clients).await, [502]);
    assert_eq!(upstream.requests(), 2);
    assert_eq!(upstream.accepted.load(Ordering::SeqCst), 1);
    assert_eq!(post(&mut clients).await, [200]);
    let recorded = sidecar.recorded(3).await;
    let ended: Vec<Ended> = recorded.iter().map(|e| e.ended).collect();
    assert_eq!(ended, [Ended::Complete, Ended::UpstreamReset, Ended::Complete]);
    assert_eq!(recorded[1].request_body.bytes, "body");
}

#[tokio::test]
async fn a_connection_is_left_to_rest_no_longer_than_configured() {
    let upstream = Fickle::start(Leaves::WhenTold { reset: false }, 1).await;
    let sidecar = Sidecar::configured(&upstream.url, |c| {
        c.upstream.idle_timeout = Some(remora::config::Span::millis(50));
    })
    .await;
    let mut clients = clients(&sidecar, 1).await;
    assert_eq!(post(&mut clients).await, [200]);
    // We close it, not the upstream.
    upstream.all_closed().await;
    assert_eq!(post(&mut clients).await, [200]);
    assert_eq!(upstream.accepted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn each_new_connection_looks_for_the_host_anew_in_both_address_families() {
    let first = Fickle::start(Leaves::WhenTold { reset: false }, 1).await;
    let addresses: Vec<_> =
        tokio::net::lookup_host("localhost:1").await.expect("known").map(|a| a.ip()).collect();
    let Ok(probe) = TcpListener::bind("[::1]:0").await else {
        eprintln!("*** SKIPPED: this machine has no IPv6");
        return;
    };
    drop(probe);
    let sidecar = Sidecar::start(&format!("http://localhost:{}", first.port)).await;
    let mut clients = clients(&sidecar, 1).await;
    assert_eq!(post(&mut clients).await, [200], "it listens in one family only");
    if !addresses.iter().any(std::net::IpAddr::is_ipv6) {
        eprintln!("*** SKIPPED in part: localhost has no IPv6 address here");
        return;
    }
    first.go.send_modify(|n| *n += 1);
    first.all_closed().await;
    let port = first.port;
    drop(first);
    let listener = until("the other family's port", || std::net::TcpListener::bind(("::1", port)).ok()).await;
    listener.set_nonblocking(true).expect("it can be set");
    let second = Fickle::on(TcpListener::from_std(listener).expect("usable"), Leaves::AtOnce, 1);
    let status = until("the first to be gone", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
    });
    status.await;
    assert_eq!(post(&mut clients).await, [200]);
    assert_eq!(second.requests(), 1);
}
