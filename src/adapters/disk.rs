//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::AdapterError;

type Result<T> = std::result::Result<T, AdapterError>;

/// Everything that changes the disk passes here first, so that tests can let the process die before any step.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it fails in tests")]
fn step(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use crash::step;

/// Makes a directory, with all above it, that only its owner can look into.
pub(super) fn create_private(path: &Path) -> Result<()> {
    step(path)?;
    let mut private = fs::DirBuilder::new();
    private.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
    private.create(path).map_err(AdapterError::file("create the directory", path))
}

/// Writes a file and waits until the disk has it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    step(path)?;
    let mut file = File::create(path).map_err(AdapterError::file("create", path))?;
    // A process may die in the middle of a file as well.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.write_all(first).map_err(AdapterError::file("write", path))?;
    step(path)?;
    file.write_all(second).map_err(AdapterError::file("write", path))?;
    step(path)?;
    file.sync_all().map_err(AdapterError::file("sync", path))
}

/// Replaces a file in one step: afterwards it holds the old bytes or the new ones, whatever happens in between.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("json.new");
    write(&new, bytes)?;
    rename(&new, path)
}

/// Moves a file or a directory, and waits until the disk knows.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    step(to)?;
    fs::rename(from, to).map_err(AdapterError::file("move into place", to))?;
    step(to)?;
    sync_directory(to.parent().unwrap_or(Path::new(".")))
}

/// Waits until the disk knows the names in a directory.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    // Elsewhere directories cannot be opened.
    if cfg!(unix) {
        let directory = File::open(path).map_err(AdapterError::file("open", path))?;
        directory.sync_all().map_err(AdapterError::file("sync", path))?;
    }
    Ok(())
}

/// Reads a JSON file; none where there is none.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(AdapterError::file("read", path)(e)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| AdapterError::Damaged {
        path: path.to_owned(),
        reason: format!("it is not what Remora writes there ({e}); it is left as it is"),
    })
}

#[cfg(test)]
pub(super) mod crash {
    //! A process that dies: from a chosen step on, nothing reaches the disk any more.

    use std::cell::Cell;
    use std::path::Path;

    use super::{AdapterError, Result};

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(in super::super) fn step(path: &Path) -> Result<()> {
        match LEFT.get() {
            Some(0) => Err(AdapterError::file("go on", path)(std::io::Error::other("the process is dead"))),
            Some(n) => {
                LEFT.set(Some(n - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Runs `act` in a process that dies after `steps`; whether it lived.
    pub(in super::super) fn dies_after<T>(
        steps: usize,
        act: impl FnOnce() -> Result<T>,
    ) -> Option<Result<T>> {
        LEFT.set(Some(steps));
        let done = act();
        let dead = LEFT.replace(None) == Some(0) && done.is_err();
        (!dead).then_some(done)
    }
}
