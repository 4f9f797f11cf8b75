//! From one process to the next: the listening sockets go over a Unix socket in the data directory.
//!
//! The running process attends the [`Desk`]; the new one comes with a [`Takeover`]. Lines of text, each answered before
//! the next; the sockets travel with the first answer (`SCM_RIGHTS`, unix(7)):
//!
//! ```text
//! new: remora takeover 1      old: {"listeners": [{"key", "address"}, …]} and the sockets themselves
//! new: ready                  old: go           (it accepts nothing more: clients wait in the system's queue)
//! new: serving                old: farewell     (it drains; all that comes from now on is the new one's)
//! new: closes when the next process finds it under the old name
//! ```
//!
//! Up to `serving` the new process may fail or vanish, and the old one goes on. Nobody else may take part: the directory
//! and the socket are the user's, and both sides look at whose the other one is.

mod desk;
mod takeover;
mod talk;

use std::io::{ErrorKind, Result};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

pub(in crate::app) use desk::Desk;
pub use takeover::Takeover;

/// In the data directory.
const NAME: &str = "handover.sock";
/// The first line; its number rises when the conversation changes.
const HELLO: &str = "remora takeover 1";
/// A line that should come at once.
const AT_ONCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Serialize, Deserialize)]
struct Greeting {
    listeners: Vec<Named>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    key: String,
    address: String,
}

/// A directory under a name that is short enough for a socket's address, whose path has at most 107 bytes.
struct Place {
    /// Keeps the name valid.
    _opened: std::fs::File,
    path: PathBuf,
}

impl Place {
    fn new(folder: &Path) -> Result<Self> {
        let opened = std::fs::File::open(folder)?;
        #[cfg(target_os = "linux")]
        let short = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        #[cfg(not(target_os = "linux"))]
        let short = PathBuf::new();
        let path = if short.is_dir() { short } else { folder.to_owned() };
        Ok(Self { _opened: opened, path })
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// None where nobody listens.
async fn connect(folder: &Path) -> Result<Option<UnixStream>> {
    let connected = match Place::new(folder) {
        Ok(place) => UnixStream::connect(place.join(NAME)).await,
        Err(e) => Err(e),
    };
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(e),
    }
}
