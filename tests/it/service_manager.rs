//! What systemd says to a service, and hears from it.

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Connection, Launch, Process, Upstream, plain, until};

/// Where a service manager hears.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(socket: UnixDatagram) -> Self {
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, heard: Vec::new() }
    }

    /// Waits for a message with this line, and gives it.
    async fn hears(&mut self, line: &str) -> String {
        until(line, || {
            let mut bytes = [0; 1024];
            while let Ok(n) = self.socket.recv(&mut bytes) {
                self.heard.push(String::from_utf8_lossy(&bytes[..n]).into_owned());
            }
            let at = self.heard.iter().position(|m| m.lines().any(|l| l == line))?;
            Some(self.heard.remove(at))
        })
        .await
    }
}

fn field(message: &str, name: &str) -> u64 {
    let found = message.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {message:?}"))
}

async fn answers(process: &Process) -> bool {
    let mut connection = Connection::open(&process.proxy).await;
    connection.try_post("/v1/models", b"{}").await.is_some_and(|answer| answer.status == 200)
}

#[tokio::test]
async fn the_service_manager_hears_of_start_reload_handover_and_end() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("notify");
    let mut manager = Manager::new(UnixDatagram::bind(&path).expect("it is bound"));
    let launch = || {
        Launch::new(&scratch.path().join("data"), scratch.path())
            .with(&["--upstream", &upstream.url()])
            .variable("NOTIFY_SOCKET", path.to_str().expect("a plain path"))
            .variable("WATCHDOG_USEC", "200000")
    };
    let mut old = launch().start().await;
    manager.hears("READY=1").await;
    for _ in 0..2 {
        manager.hears("WATCHDOG=1").await;
    }
    old.signal(Signal::HUP);
    let reloading = manager.hears("RELOADING=1").await;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).expect("after the boot") * 1_000_000;
    let told = field(&reloading, "MONOTONIC_USEC");
    assert!(told <= now + 1_000_000 && told + 60_000_000 > now, "{told} is not {now}");
    manager.hears("READY=1").await;

    old.signal(Signal::USR2);
    let mut new = old.successor().await;
    manager.hears(&format!("MAINPID={}", new.pid())).await;
    manager.hears("READY=1").await;
    old.ended().await;
    assert!(!manager.heard.iter().any(|m| m.contains("STOPPING")), "the service goes on");
    manager.heard.clear();
    manager.hears("WATCHDOG=1").await;
    new.signal(Signal::TERM);
    let stopping = manager.hears("STOPPING=1").await;
    assert!(field(&stopping, "EXTEND_TIMEOUT_USEC") > 30_000_000);
    new.ended().await;
}

#[tokio::test]
async fn an_abstract_socket_is_found_and_another_processs_watchdog_is_not_fed() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let name = format!("remora-test-{}", scratch.path().display());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let mut manager = Manager::new(UnixDatagram::bind_addr(&address).expect("it is bound"));
    let mut process = Launch::new(&scratch.path().join("data"), scratch.path())
        .with(&["--upstream", &upstream.url()])
        .variable("NOTIFY_SOCKET", &format!("@{name}"))
        .variable("WATCHDOG_USEC", "1000")
        .variable("WATCHDOG_PID", "1")
        .start()
        .await;
    manager.hears("READY=1").await;
    process.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    process.ended().await;
    assert!(!manager.heard.iter().any(|m| m.contains("WATCHDOG")));
}

#[tokio::test]
async fn a_manager_that_does_not_listen_is_no_reason_not_to_serve() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let process = Launch::new(&scratch.path().join("data"), scratch.path())
        .with(&["--upstream", &upstream.url()])
        .variable("NOTIFY_SOCKET", "/nowhere/notify")
        .start()
        .await;
    assert!(answers(&process).await);
}

#[tokio::test]
async fn sockets_that_the_service_manager_opened_are_served() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let bound = || std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    // By their names, in an order of their own; and without names, the first is for apps.
    for names in ["admin:listen", "remora.socket:remora.socket"] {
        let (third, fourth) = (bound(), bound());
        let urls = [&third, &fourth].map(|s| format!("http://{}", s.local_addr().expect("bound")));
        // The standard input and output are the only descriptors that can be passed without more ado.
        let shell = "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ exec \"$@\"";
        let process = Launch::new(&scratch.path().join("data"), scratch.path())
            .with(&["--upstream", &upstream.url()])
            .variable("LISTEN_FDS", "2")
            .variable("LISTEN_FDNAMES", names)
            .by(
                &["sh", "-c", shell, "sh"],
                Stdio::from(OwnedFd::from(third)),
                Stdio::from(OwnedFd::from(fourth)),
            )
            .start()
            .await;
        let found = [process.admin.clone(), process.proxy.clone()];
        let expected = if names == "admin:listen" { urls } else { [urls[1].clone(), urls[0].clone()] };
        assert_eq!(found, expected, "{names}");
        assert!(answers(&process).await);
    }
}
