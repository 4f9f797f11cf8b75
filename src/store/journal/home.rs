use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::format::{self, NO_MARK, Read};
use super::reader::{Position, Segment};
use super::writer::JournalWriter;
use crate::config::Durability;
use crate::model::{Body, BodyHash, Exchange};
use crate::store::{DataDir, FileLock};

/// The journal's directory.
#[derive(Clone, Debug)]
pub struct Journal {
    dir: PathBuf,
}

/// In the directory of a writer that syncs.
const POWER: &str = "power";

/// What one process appended, or still appends.
#[derive(Clone, Debug)]
pub struct WriterHome {
    pub(super) dir: PathBuf,
}

impl Journal {
    #[must_use]
    pub fn of(dir: &DataDir) -> Self {
        Self { dir: dir.journal() }
    }

    /// Begins a place to append to, for this process.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn writer(&self, durability: Durability) -> io::Result<JournalWriter> {
        let home = WriterHome { dir: self.dir.join(uuid::Uuid::now_v7().simple().to_string()) };
        let lock = home.make(durability == Durability::Power)?;
        JournalWriter::begin(home, lock, durability == Durability::Power)
    }

    /// Takes the right to move entries into the record; none while another process has it.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn lock(&self) -> io::Result<Option<FileLock>> {
        make_private_dir(&self.dir)?;
        FileLock::take(&self.dir.join("settle.lock"))
    }

    /// All that appended and is not cleared away yet, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn writers(&self) -> io::Result<Vec<WriterHome>> {
        let mut found = Vec::new();
        for name in names(&self.dir)? {
            let dir = self.dir.join(&name);
            if !name.starts_with('.') && dir.is_dir() {
                found.push(WriterHome { dir });
            }
        }
        Ok(found)
    }

    /// Where each writer's entries end now.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn ends(&self) -> io::Result<Vec<(WriterHome, Position)>> {
        let end = |writer: WriterHome| {
            let end = writer.segments()?.last().map(Segment::end).unwrap_or_default();
            Ok((writer, end))
        };
        self.writers()?.into_iter().map(end).collect()
    }

    /// Whether everything before these ends is in the record, and what a dead process left is cleared away.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn reached(&self, ends: &[(WriterHome, Position)]) -> io::Result<bool> {
        for (writer, end) in ends {
            if writer.dir.exists() && (writer.is_left()? || writer.unsettled(*end)? > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl WriterHome {
    /// Makes its directory, or what is missing of it; gives its lock, held. `power`: what it holds is to survive loss of
    /// power, in the record as well.
    pub(super) fn make(&self, power: bool) -> io::Result<FileLock> {
        let parent = self.dir.parent().expect("it is in the journal's directory");
        make_private_dir(parent)?;
        // Complete before it can be seen: without its lock held it would count as left behind.
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(self.dir.file_name().expect("it has a name"));
        let hidden = parent.join(hidden);
        make_private_dir(&hidden.join("open"))?;
        let lock = FileLock::take(&hidden.join("lock"))?.ok_or(ErrorKind::WouldBlock)?;
        if power {
            File::create(hidden.join(POWER))?;
        }
        if std::fs::rename(&hidden, &self.dir).is_err() {
            // Some of it is still there.
            make_private_dir(&self.dir.join("open"))?;
            for name in [POWER, "lock"] {
                if hidden.join(name).exists() {
                    std::fs::rename(hidden.join(name), self.dir.join(name))?;
                }
            }
            std::fs::remove_dir_all(&hidden)?;
        }
        Ok(lock)
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Whether its entries were promised to survive loss of power: then they must, in the record as well, whoever moves
    /// them there.
    #[must_use]
    pub fn survives_power(&self) -> bool {
        self.dir.join(POWER).exists()
    }

    /// Whether its process is gone, so that nothing will be appended any more.
    ///
    /// # Errors
    /// When the lock cannot be tried.
    pub fn is_left(&self) -> io::Result<bool> {
        match OpenOptions::new().read(true).write(true).open(self.lock_path()) {
            Ok(file) => Ok(FileLock::take_open(file)?.is_some()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Its segments in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn segments(&self) -> io::Result<Vec<Segment>> {
        let number = |name: &str| name.strip_suffix(".log")?.parse::<u32>().ok();
        let mut found: Vec<Segment> = names(&self.dir)?
            .iter()
            .filter_map(|name| Some(Segment { path: self.dir.join(name), number: number(name)? }))
            .collect();
        found.sort_by_key(|s| s.number);
        Ok(found)
    }

    /// Up to where its entries are in the record.
    #[must_use]
    pub fn settled(&self) -> Position {
        std::fs::read(self.dir.join("settled")).ok().and_then(|b| Position::parse(&b)).unwrap_or_default()
    }

    /// Bytes of entries before `end` that are not in the record.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn unsettled(&self, end: Position) -> io::Result<u64> {
        let settled = self.settled();
        let rest = |segment: &Segment| {
            let from = if segment.number == settled.segment { settled.offset } else { 0 };
            let to = if segment.number == end.segment { end.offset } else { segment.end().offset };
            to.saturating_sub(from.max(Segment::BEGINNING))
        };
        let between = |s: &&Segment| s.number >= settled.segment && s.number <= end.segment;
        Ok(self.segments()?.iter().filter(between).map(rest).sum())
    }

    /// Notes up to where its entries are in the record. An older note than the truth does no harm.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn note_settled(&self, position: Position) -> io::Result<()> {
        std::fs::write(self.dir.join("settled"), position.bytes())
    }

    /// Exchanges that were under way when its process ended: each with what had passed, all but the last second.
    ///
    /// # Errors
    /// When the directory cannot be read. A file that cannot be understood is passed over.
    pub fn open_exchanges(&self) -> io::Result<Vec<Exchange>> {
        let dir = self.dir.join("open");
        let mut found = Vec::new();
        for name in names(&dir)? {
            found.extend(joined(std::fs::read(dir.join(name))?));
        }
        Ok(found)
    }

    /// Deletes it all.
    ///
    /// # Errors
    /// When something in it cannot be deleted.
    pub fn clear(&self) -> io::Result<()> {
        std::fs::remove_dir_all(&self.dir)
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

/// One exchange of the entries that were appended while it was under way: each holds the bytes since the one before.
fn joined(file: Vec<u8>) -> Option<Exchange> {
    let mut rest = bytes::Bytes::from(file);
    let (mut request, mut response) = (Vec::new(), Vec::new());
    let mut last = None;
    while let Read::Entry(exchange, length) = format::decode(&rest, &NO_MARK) {
        request.extend_from_slice(&exchange.request_body.bytes);
        if let Some(r) = &exchange.response {
            response.extend_from_slice(&r.body.bytes);
        }
        last = Some(*exchange);
        rest = rest.slice(length..);
    }
    let mut exchange = last?;
    let whole = |body: &mut Body, bytes: Vec<u8>| {
        body.bytes = bytes.into();
        if body.bytes.len() as u64 == body.length {
            body.sha256 = BodyHash::of(&body.bytes);
        }
    };
    whole(&mut exchange.request_body, request);
    if let Some(r) = &mut exchange.response {
        whole(&mut r.body, response);
    }
    Some(exchange)
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut private = std::fs::DirBuilder::new();
    private.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
    private.create(path)
}

/// Names in a directory, sorted; none where there is no directory.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
