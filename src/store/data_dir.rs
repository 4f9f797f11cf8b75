use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::StoreError;

/// The file that tells where the embedded model listens.
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

    /// Where the model listens that the process serving this directory embeds; none: it embeds none. A process that was
    /// killed leaves it behind.
    #[must_use]
    pub fn embedded(&self) -> Option<SocketAddr> {
        std::fs::read_to_string(self.0.join(EMBEDDED)).ok()?.trim().parse().ok()
    }

    /// Tells nights and commands, whose settings may be others, what [`embedded`](Self::embedded) gives.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn tell_embedded(&self, address: Option<SocketAddr>) -> std::io::Result<()> {
        let path = self.0.join(EMBEDDED);
        match address {
            Some(address) => std::fs::write(path, format!("{address}\n")),
            None => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
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
