//! Tells a service manager how it goes: the protocol of `sd_notify(3)`, which is datagrams of `NAME=value` lines.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::variable;
use crate::tasks::Tasks;

/// Where the service manager listens, if one does. What cannot be sent is dropped: the manager's absence is no reason not
/// to serve.
#[derive(Debug, Default)]
pub struct Notifier {
    #[cfg(unix)]
    socket: Option<(std::os::unix::net::UnixDatagram, std::os::unix::net::SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The manager that the environment names: `NOTIFY_SOCKET` (a path, or `@name` for an abstract socket of Linux),
    /// `WATCHDOG_USEC` and `WATCHDOG_PID`.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(name) = variable("NOTIFY_SOCKET") else { return Self::default() };
        let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC")
            .filter(|_| meant)
            .and_then(|micros| micros.parse().ok())
            .filter(|micros| *micros > 0)
            .map(Duration::from_micros);
        Self::to(&name, watchdog)
    }

    #[cfg(unix)]
    fn to(name: &str, watchdog: Option<Duration>) -> Self {
        let socket = address(name).and_then(|to| Ok((std::os::unix::net::UnixDatagram::unbound()?, to)));
        match socket {
            Ok((socket, to)) => {
                // A manager that reads nothing must not hold us up.
                drop(socket.set_nonblocking(true));
                Self { socket: Some((socket, to)), watchdog }
            }
            Err(error) => {
                tracing::warn!(%error, name, "NOTIFY_SOCKET cannot be used");
                Self::default()
            }
        }
    }

    #[cfg(not(unix))]
    fn to(_: &str, _: Option<Duration>) -> Self {
        Self::default()
    }

    /// The start, or a reload, is over.
    pub(super) fn ready(&self) {
        self.say("READY=1\nSTATUS=");
    }

    /// A reload begins.
    pub(super) fn reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().as_micros()));
    }

    /// The end begins and takes up to `limit`.
    pub(super) fn stopping(&self, limit: Duration) {
        self.say(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={}\nSTATUS=Running exchanges finish",
            limit.as_micros()
        ));
    }

    /// Another process takes this one's place.
    pub(super) fn main_process(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
    }

    /// Says that the process is alive, as often as the manager wants to hear it, until it leaves.
    pub(super) fn watch(notifier: &Arc<Self>, tasks: &Tasks, mut ready: watch::Receiver<bool>) {
        let Some(span) = notifier.watchdog else { return };
        let notifier = notifier.clone();
        tasks.spawn("watchdog", async move {
            // Half the time, as sd_watchdog_enabled(3) recommends.
            let mut ticks = tokio::time::interval(span / 2);
            loop {
                tokio::select! {
                    _ = ready.wait_for(|ready| !ready) => return,
                    _ = ticks.tick() => notifier.say("WATCHDOG=1"),
                }
            }
        });
    }

    #[cfg(unix)]
    fn say(&self, what: &str) {
        if let Some((socket, to)) = &self.socket
            && let Err(error) = socket.send_to_addr(what.as_bytes(), to)
        {
            tracing::debug!(%error, what, "the service manager was not told");
        }
    }

    #[cfg(not(unix))]
    fn say(&self, _: &str) {}
}

#[cfg(unix)]
fn address(name: &str) -> std::io::Result<std::os::unix::net::SocketAddr> {
    use std::os::unix::net::SocketAddr;
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix('@') {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

/// The clock that service managers compare with.
#[cfg(unix)]
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(not(unix))]
fn monotonic() -> Duration {
    Duration::ZERO
}
