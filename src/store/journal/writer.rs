use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use super::format::{self, Entry, Mark, NO_MARK};
use super::home::WriterHome;
use super::reader::{Position, Segment};
use crate::model::ExchangeId;
use crate::store::FileLock;

/// A segment is left for a new one at this length in bytes: long enough that files are few, short enough that reading
/// one again after a crash takes a moment.
const SEGMENT: u64 = 16 << 20;
/// The buffer is given back when a batch made it larger than this, in bytes.
const BUFFER: usize = 4 << 20;

/// Appends to the journal; belongs to one thread.
#[derive(Debug)]
pub struct JournalWriter {
    home: WriterHome,
    /// Held as long as the writer lives: says that more may come.
    lock: FileLock,
    file: File,
    /// Of the segment.
    mark: Mark,
    number: u32,
    length: u64,
    /// Whether a batch is synced to the disk before it counts as kept.
    sync: bool,
    /// The segment's name may be lost with the power: its directory is not synced yet.
    unnamed: bool,
    buffer: Vec<u8>,
    /// Where the entries of the batch end in the buffer.
    ends: Vec<usize>,
    /// Something in the segment was taken back: nothing more is appended to it.
    given_up: bool,
}

/// A batch that was not kept whole.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot append: {source}", path = path.display())]
pub struct AppendError {
    /// So many entries from the batch's beginning are kept; the others are not.
    pub kept: usize,
    /// Bytes that these take.
    pub bytes: u64,
    path: PathBuf,
    source: io::Error,
}

impl JournalWriter {
    pub(super) fn begin(home: WriterHome, lock: FileLock, sync: bool) -> io::Result<Self> {
        let (file, mark, length) = segment(&home, 1)?;
        let mut me = Self {
            home,
            lock,
            file,
            mark,
            number: 1,
            length,
            sync,
            unnamed: sync,
            buffer: Vec::new(),
            ends: Vec::new(),
            given_up: false,
        };
        me.name_lastingly()?;
        Ok(me)
    }

    /// Where it appends.
    #[must_use]
    pub fn home(&self) -> &WriterHome {
        &self.home
    }

    /// Appends entries with one write; returns how many bytes they took. What is kept survives the process, and with
    /// `sync` the loss of power.
    ///
    /// # Errors
    /// When the disk is full or fails; says how many entries were kept.
    pub fn append(&mut self, entries: impl Iterator<Item = Entry>) -> Result<u64, AppendError> {
        self.buffer.clear();
        self.ends.clear();
        // First, for each segment has its own mark.
        let begun =
            if self.length >= SEGMENT || self.given_up { self.next_segment() } else { self.name_lastingly() };
        for entry in entries {
            format::encode(&entry, &self.mark, &mut self.buffer);
            self.ends.push(self.buffer.len());
        }
        let before = self.length;
        let appended = match begun {
            Ok(()) => self.write(),
            Err(e) => Err((0, e)),
        };
        if self.buffer.capacity() > BUFFER {
            self.buffer = Vec::new();
        }
        let bytes = self.length.saturating_sub(before);
        appended.map_err(|(kept, source)| AppendError { kept, bytes, path: self.path(), source })?;
        Ok(bytes)
    }

    fn write(&mut self) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        let failed = loop {
            match self.file.write(&self.buffer[written..]) {
                Ok(0) if written < self.buffer.len() => break Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Some(e),
            }
            if written == self.buffer.len() {
                break None;
            }
        };
        let synced = if self.sync && failed.is_none() { self.file.sync_data() } else { Ok(()) };
        match (failed, synced) {
            (None, Ok(())) => {
                self.length += written as u64;
                Ok(())
            }
            (None, Err(e)) => Err(self.keep(0, e)),
            (Some(e), _) => {
                let kept = self.ends.iter().take_while(|end| **end <= written).count();
                Err(self.keep(if self.sync { 0 } else { kept }, e))
            }
        }
    }

    /// Leaves the first `kept` entries of the batch in the file, and nothing after them.
    fn keep(&mut self, kept: usize, error: io::Error) -> (usize, io::Error) {
        let whole = if kept == 0 { 0 } else { self.ends[kept - 1] as u64 };
        // A settler may have read, and noted, what is taken back here: other entries must not come to stand there.
        self.given_up = true;
        // Where this fails, too, a torn entry stays, which readers pass over.
        if self.file.set_len(self.length + whole).is_err() {
            self.length = self.file.metadata().map_or(self.length, |m| m.len());
        } else {
            self.length += whole;
        }
        (kept, error)
    }

    fn next_segment(&mut self) -> io::Result<()> {
        match segment(&self.home, self.number + 1) {
            Ok(next) => {
                (self.file, self.mark, self.length) = next;
                self.number += 1;
                self.unnamed = self.sync;
                self.given_up = false;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.begin_again()?,
            Err(e) => return Err(e),
        }
        self.name_lastingly()
    }

    /// Sees to it that loss of power does not take the segment's name, or that of a directory above it.
    fn name_lastingly(&mut self) -> io::Result<()> {
        if self.unnamed {
            // The data directory may be new as well.
            for dir in self.home.dir.ancestors().take(4) {
                let dir = if dir.as_os_str().is_empty() { std::path::Path::new(".") } else { dir };
                match File::open(dir) {
                    Ok(dir) => dir.sync_all()?,
                    // One that may be entered but not listed is somebody else's, and older than ours.
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                    Err(e) => return Err(e),
                }
            }
            self.unnamed = false;
        }
        Ok(())
    }

    /// Looks whether what is appended still has a name, and gives it one again where somebody deleted or moved it: what
    /// is in an open file is not lost yet. To be called now and then.
    ///
    /// # Errors
    /// When nothing can be made in its place. What is appended goes on into the file that has no name.
    pub fn tend(&mut self) -> io::Result<()> {
        if self.is_in_place() { Ok(()) } else { self.begin_again() }
    }

    fn is_in_place(&self) -> bool {
        same_file(&self.file, &self.path()) && same_file(self.lock.file(), &self.home.lock_path())
    }

    /// Makes the home again where it is gone, and a segment in it that begins with all that is in this one.
    fn begin_again(&mut self) -> io::Result<()> {
        tracing::error!(
            path = %self.path().display(),
            "the journal was deleted or moved under the running process; it is made again"
        );
        if !same_file(self.lock.file(), &self.home.lock_path()) {
            self.lock = self.home.make(self.sync)?;
        }
        let mut all = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut all)?;
        let file = create(&self.home, self.number + 1, &all)?;
        if self.sync
            && let Err(error) = file.sync_data()
        {
            // It would be in the way of the next try.
            drop(std::fs::remove_file(self.home.dir.join(name(self.number + 1))));
            return Err(error);
        }
        self.file = file;
        self.length = all.len() as u64;
        self.number += 1;
        self.given_up = false;
        self.unnamed = self.sync;
        self.name_lastingly()
    }

    fn path(&self) -> PathBuf {
        self.home.dir.join(name(self.number))
    }

    /// Where its entries end.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { segment: self.number, offset: self.length }
    }

    /// Keeps what passed of an exchange that is still under way: its bodies hold what came since the last time; `first`:
    /// there was none.
    ///
    /// # Errors
    /// When the disk is full or fails, or what was kept before is gone. Then nothing is kept any more: the next must be
    /// the first again, for a record with a hole is worse than a short one.
    pub fn checkpoint(&mut self, entry: &Entry, first: bool) -> io::Result<()> {
        self.buffer.clear();
        format::encode(entry, &NO_MARK, &mut self.buffer);
        let mut options = OpenOptions::new();
        options.append(true).create_new(first);
        private(&mut options);
        let written =
            options.open(self.open_path(entry.exchange.id)).and_then(|mut f| f.write_all(&self.buffer));
        if written.is_err() {
            self.end_checkpoints(entry.exchange.id);
        }
        written
    }

    /// Forgets what [`checkpoint`](Self::checkpoint) kept: the exchange has ended and was appended whole.
    pub fn end_checkpoints(&self, id: ExchangeId) {
        // Left behind, it costs a look at start: the exchange is in the record already.
        drop(std::fs::remove_file(self.open_path(id)));
    }

    fn open_path(&self, id: ExchangeId) -> PathBuf {
        self.home.dir.join("open").join(id.to_string())
    }
}

fn name(number: u32) -> String {
    format!("{number:08}.log")
}

fn segment(home: &WriterHome, number: u32) -> io::Result<(File, Mark, u64)> {
    let mut mark = NO_MARK;
    getrandom::fill(&mut mark).map_err(io::Error::other)?;
    let file = create(home, number, &[*format::MAGIC, mark].concat())?;
    Ok((file, mark, Segment::BEGINNING))
}

fn create(home: &WriterHome, number: u32, contents: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Read where it must be copied.
    options.append(true).read(true).create_new(true);
    private(&mut options);
    let path = home.dir.join(name(number));
    let mut file = options.open(&path)?;
    if let Err(error) = file.write_all(contents) {
        // It would be in the way of the next try.
        drop(std::fs::remove_file(&path));
        return Err(error);
    }
    Ok(file)
}

/// Whether a path still names an open file.
#[cfg(unix)]
fn same_file(file: &File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(file), Ok(path)) => identity(file) == identity(path),
        // Not known: nothing is gained by making another.
        (Err(_), _) => true,
        (_, Err(e)) => e.kind() != io::ErrorKind::NotFound,
    }
}

/// An open file can be neither deleted nor moved.
#[cfg(not(unix))]
fn same_file(_: &File, _: &std::path::Path) -> bool {
    true
}

fn private(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    #[cfg(not(unix))]
    let _ = options;
}
