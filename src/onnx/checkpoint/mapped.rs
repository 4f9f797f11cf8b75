use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::CheckpointError;

/// A file as memory, read-only.
#[derive(Debug)]
pub(super) struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Mapped {
    /// # Errors
    /// When the file cannot be opened or mapped; an empty one cannot.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let map = map(&file).map_err(CheckpointError::io("map", path))?;
        Ok(Self { path: path.to_owned(), map })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe, and copying gigabytes is the alternative")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is private and read-only. Somebody who rewrites a model's file in place while it is in use changes
    // its weights; whoever replaces it by renaming, as downloaders do, changes nothing. All that is read through the map
    // is checked where it is read, never trusted to stay.
    unsafe { Mmap::map(file) }
}
