use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::StoreError;

/// The file that tells where the embedded model listens, and in which process.
const EMBEDDED: &str = "embedded.address";

/// Where everything is kept. The layout is documented in the README.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    #[must_use]
    pub fn record_db(&self) -> PathBuf {
        self.0.join("record.db")
    }

    #[must_use]
    pub fn insight_db(&self) -> PathBuf {
        self.0.join("insight.db")
    }

    /// The bodies of one day (`2026-11-21`).
    #[must_use]
    pub fn payload_db(&self, day: &str) -> PathBuf {
        self.0.join("payloads").join(format!("{day}.db"))
    }

    /// The days that have a payload file, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn payload_days(&self) -> Result<Vec<String>, StoreError> {
        let folder = self.0.join("payloads");
        let failed = |source| StoreError::Directory { path: folder.clone(), source };
        let mut days = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(day) = name.to_str().and_then(|name| name.strip_suffix(".db")) else { continue };
            // What somebody put there is not ours to drop.
            if chrono::NaiveDate::parse_from_str(day, "%Y-%m-%d").is_ok() {
                days.push(day.to_owned());
            }
        }
        days.sort_unstable();
        Ok(days)
    }

    /// Where databases that cannot be read are moved.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.0.join("quarantine")
    }

    /// What has ended and is not in the record yet; see [`journal`](super::journal).
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// The full-text index; derived, may be deleted at any time.
    #[must_use]
    pub fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    /// The git repository of what was learned for a tenant.
    #[must_use]
    pub fn learned(&self, tenant: &str) -> PathBuf {
        self.0.join("learned").join(file_name(tenant))
    }

    /// The adapters that were trained, and which of them are in use.
    #[must_use]
    pub fn adapters(&self) -> PathBuf {
        self.0.join("adapters")
    }

    /// Trainings under way, and reports of those that were.
    #[must_use]
    pub fn training(&self) -> PathBuf {
        self.0.join("training")
    }

    /// The key of credential fingerprints.
    #[must_use]
    pub fn fingerprint_key(&self) -> PathBuf {
        self.0.join("fingerprint.key")
    }

    /// The local certificate authority, where forward-proxy mode is on.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.0.join("ca")
    }

    /// Where the model listens that the process serving this directory embeds; none: no process is there that embeds one.
    #[must_use]
    pub fn embedded(&self) -> Option<SocketAddr> {
        let (address, process) = self.read_embedded()?;
        is_there(process).then_some(address)
    }

    /// Tells nights and commands, whose settings may be others, that this process embeds a model.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn tell_embedded(&self, address: SocketAddr) -> std::io::Result<()> {
        let (path, new) = (self.0.join(EMBEDDED), self.0.join(format!("{EMBEDDED}.new")));
        std::fs::write(&new, format!("{address} {}\n", std::process::id()))?;
        std::fs::rename(new, path)
    }

    /// Takes back what [`tell_embedded`](Self::tell_embedded) told, unless another process has told it anew.
    pub fn forget_embedded(&self) {
        if self.read_embedded().is_some_and(|(_, process)| process == std::process::id()) {
            // Whoever still reads it finds that the process is gone.
            drop(std::fs::remove_file(self.0.join(EMBEDDED)));
        }
    }

    fn read_embedded(&self) -> Option<(SocketAddr, u32)> {
        let text = std::fs::read_to_string(self.0.join(EMBEDDED)).ok()?;
        let (address, process) = text.trim().split_once(' ')?;
        Some((address.parse().ok()?, process.parse().ok()?))
    }

    pub(super) fn create(&self) -> Result<(), StoreError> {
        // Recorded traffic is nobody else's business.
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
        private
            .create(self.0.join("payloads"))
            .map_err(|source| StoreError::Directory { path: self.0.clone(), source })
    }
}

#[cfg(unix)]
fn is_there(process: u32) -> bool {
    use rustix::process::{Pid, test_kill_process};
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    // One that is somebody else's is there as well.
    process.is_some_and(|process| test_kill_process(process) != Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn is_there(_: u32) -> bool {
    true
}

/// A name that clients chose as one path component: what is not a letter, digit, `-`, `_` or `.` becomes `-`, and a
/// short hash keeps names apart that would fall together.
#[must_use]
pub fn file_name(name: &str) -> String {
    use sha2::{Digest, Sha256};
    let safe: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .take(80)
        .collect();
    if safe == name && !name.is_empty() && !name.starts_with('.') {
        return safe;
    }
    let digest = Sha256::digest(name);
    format!("{}-{}", safe.trim_start_matches('.'), hex::encode(&digest[..4]))
}

/// Tells a file from one that took its name after it was deleted or replaced; none where there is no file. What is
/// written to a deleted file is lost, and what is read from it is old.
pub(super) fn identity(path: &Path) -> Option<u64> {
    let found = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&found);
    // Elsewhere an open file cannot be deleted.
    #[cfg(not(unix))]
    let number = u64::from(!found.is_file());
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_embedded_is_told_while_its_process_is_there() {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::new(scratch.path());
        let address: SocketAddr = "127.0.0.1:9".parse().expect("an address");
        assert_eq!(dir.embedded(), None);
        dir.tell_embedded(address).expect("told");
        assert_eq!(dir.embedded(), Some(address));
        dir.forget_embedded();
        assert_eq!(dir.embedded(), None);
        // No system numbers its processes as high.
        let file = scratch.path().join(EMBEDDED);
        std::fs::write(&file, format!("{address} {}\n", i32::MAX)).expect("written");
        assert_eq!(dir.embedded(), cfg!(not(unix)).then_some(address));
        dir.forget_embedded();
        assert!(file.exists(), "another process told it");
    }

    #[test]
    fn a_hostile_name_stays_one_component() {
        for name in ["..", "../x", "/etc", "a/b", "", ".git", "ä"] {
            let safe = file_name(name);
            assert!(
                !safe.contains('/') && !safe.starts_with('.') && !safe.is_empty(),
                "{name:?} became {safe:?}"
            );
        }
        assert_eq!(file_name("default"), "default");
        assert_ne!(file_name("a/b"), file_name("a b"));
    }
}
