use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// A lock between processes, on a file; let go when dropped, or when the process dies.
///
/// It is let go by name, not by closing the file alone: a child that another thread is just starting holds a copy of
/// every open file until it has become its own program, and with the file the lock.
#[derive(Debug)]
#[must_use = "it is let go when dropped"]
pub struct FileLock(File);

impl FileLock {
    /// Waits for the lock; its file is made where it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn wait(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.lock()?;
        Ok(Self(file))
    }

    /// The lock, unless somebody else has it; its file is made where it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        Self::take_open(open(path)?)
    }

    /// As [`take`](Self::take), on a file that is open.
    pub(super) fn take_open(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Where this fails, closing the file does it.
        let _ = self.0.unlock();
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::FileLock;

    #[test]
    fn one_at_a_time_and_free_again_when_dropped_although_a_copy_of_the_file_stays_open() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("lock");
        let held = FileLock::take(&path).expect("it can be tried").expect("it is free");
        assert!(FileLock::take(&path).expect("it can be tried").is_none());
        // What a child has between its fork and its exec.
        let copy = held.file().try_clone().expect("a second descriptor");
        drop(held);
        assert!(FileLock::take(&path).expect("it can be tried").is_some());
        drop(copy);
    }
}
