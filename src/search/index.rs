use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tantivy::directory::error::LockError;
use tantivy::directory::{Directory, DirectoryLock, INDEX_WRITER_LOCK, MmapDirectory};
use tantivy::schema::{
    FAST, Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::{IndexReader, ReloadPolicy, TantivyDocument, TantivyError};

use super::SearchError;
use super::document::Document;
use super::words::{ANALYZER, analyzer};
use crate::store::Store;

/// How often, and after which pauses, an index that does not open is tried again while another process writes it: a
/// new one is there in milliseconds.
const BUSY_ATTEMPTS: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// The full-text index: one document a trajectory.
///
/// Any number of processes may search it; one at a time writes (a lock of tantivy's).
#[derive(Clone)]
pub struct Index {
    pub(super) path: PathBuf,
    pub(super) index: tantivy::Index,
    pub(super) reader: IndexReader,
    pub(super) fields: Fields,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub id: Field,
    pub tenant: Field,
    pub app: Field,
    pub session: Field,
    pub model: Field,
    pub task: Field,
    pub text: Field,
    pub tool: Field,
}

impl Fields {
    /// Field names are what users write before a colon: `tool:refund_order`.
    ///
    /// The label is not among them: it changes without the trajectory, and the store knows it.
    fn schema() -> (Schema, Self) {
        let words = |positions| {
            TextOptions::default().set_indexing_options(
                TextFieldIndexing::default().set_tokenizer(ANALYZER).set_index_option(positions),
            )
        };
        let mut schema = Schema::builder();
        let fields = Self {
            id: schema.add_text_field("id", STRING | FAST),
            tenant: schema.add_text_field("tenant", STRING),
            app: schema.add_text_field("app", STRING),
            session: schema.add_text_field("session", STRING),
            model: schema.add_text_field("model", STRING),
            task: schema.add_text_field("task", words(IndexRecordOption::WithFreqsAndPositions)),
            text: schema.add_text_field("text", words(IndexRecordOption::WithFreqsAndPositions) | STORED),
            tool: schema.add_text_field("tool", words(IndexRecordOption::WithFreqsAndPositions)),
        };
        (schema.build(), fields)
    }

    pub(super) fn fill(self, document: Document) -> TantivyDocument {
        let mut filled = TantivyDocument::new();
        for (field, value) in [
            (self.id, document.id),
            (self.tenant, document.tenant),
            (self.app, document.app),
            (self.session, document.session),
            (self.model, document.model),
            (self.task, document.task),
            (self.text, document.text),
            (self.tool, document.tools),
        ] {
            filled.add_text(field, value);
        }
        filled
    }
}

/// Why an index cannot be used as it is.
enum Unusable {
    /// There is none yet.
    Absent,
    /// What is there is damaged, or was made by another version.
    Damaged(String),
}

impl Index {
    /// Opens the index of a data directory, reading it once to compare checksums. One that is absent, damaged or of
    /// another version is built anew: it is left empty and [`Index::catch_up`] fills it from the store.
    ///
    /// # Errors
    /// When the directory cannot be written, or needs repair while another process writes the index.
    pub fn open(store: &Store) -> Result<Self, SearchError> {
        let path = store.dir().index();
        if let Ok(index) = Self::open_at(&path) {
            return Ok(index);
        }
        make_directory(&path)?;
        // Files come and go while another process writes: only under its lock an index is what it seems to be.
        let mut attempts = 0;
        let lock = loop {
            match lock_writing(&path) {
                Err(SearchError::Busy { .. }) if attempts < BUSY_ATTEMPTS => std::thread::sleep(BUSY_PAUSE),
                result => break result?,
            }
            // That process may be creating or repairing it.
            if let Ok(index) = Self::open_at(&path) {
                return Ok(index);
            }
            attempts += 1;
        };
        match Self::open_at(&path) {
            Ok(index) => return Ok(index),
            Err(Unusable::Absent) => {}
            Err(Unusable::Damaged(reason)) => {
                tracing::warn!(path = %path.display(), reason, "the search index is damaged: rebuilding it");
            }
        }
        // In this order a kill between two steps is safe: without `meta.json` the index counts as absent.
        empty_directory(&path)?;
        store.reset_indexed()?;
        let failed = |source| SearchError::Index { operation: "create", path: path.clone(), source };
        tantivy::Index::create_in_dir(&path, Fields::schema().0).map_err(failed)?;
        drop(lock);
        tracing::info!(path = %path.display(), "a new search index was begun; it is filled from the store");
        Self::open_at(&path).map_err(|reason| match reason {
            Unusable::Absent => failed(TantivyError::SystemError("it vanished".into())),
            Unusable::Damaged(reason) => failed(TantivyError::SystemError(reason)),
        })
    }

    /// How many trajectories can be found by words.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.reader.searcher().num_docs()
    }

    fn open_at(path: &Path) -> Result<Self, Unusable> {
        if !path.join("meta.json").is_file() {
            return Err(Unusable::Absent);
        }
        // tantivy answers some damage with an error and some with a panic.
        match catch_unwind(AssertUnwindSafe(|| Self::check_and_open(path))) {
            Ok(opened) => opened.map_err(|e| Unusable::Damaged(e.to_string())),
            Err(_) => Err(Unusable::Damaged("reading it panicked".into())),
        }
    }

    fn check_and_open(path: &Path) -> tantivy::Result<Self> {
        let (schema, fields) = Fields::schema();
        let index = tantivy_index(path)?;
        if index.schema() != schema {
            return Err(TantivyError::SchemaError("it was made by another version".into()));
        }
        let damaged = index.validate_checksum()?;
        if let Some(file) = damaged.iter().next() {
            return Err(TantivyError::SystemError(format!("{}: the checksum is wrong", file.display())));
        }
        // By hand: a watching thread could not tell a commit from a repair.
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        Ok(Self { path: path.to_owned(), index, reader, fields })
    }
}

/// A fresh handle: tantivy keeps the list of files in memory, and other processes change it.
pub(super) fn tantivy_index(path: &Path) -> tantivy::Result<tantivy::Index> {
    let index = tantivy::Index::open_in_dir(path)?;
    index.tokenizers().register(ANALYZER, analyzer());
    Ok(index)
}

fn make_directory(path: &Path) -> Result<(), SearchError> {
    let failed =
        |operation| move |source| SearchError::Directory { operation, path: path.to_owned(), source };
    if path.is_file() {
        std::fs::remove_file(path).map_err(failed("remove what stands in the place of the search index"))?;
    }
    std::fs::create_dir_all(path).map_err(failed("create the directory of the search index"))
}

fn lock_writing(path: &Path) -> Result<DirectoryLock, SearchError> {
    let failed = |source| SearchError::Index { operation: "lock", path: path.to_owned(), source };
    let directory = MmapDirectory::open(path).map_err(|e| failed(e.into()))?;
    directory.acquire_lock(&INDEX_WRITER_LOCK).map_err(|e| match e {
        LockError::LockBusy => SearchError::Busy { path: path.to_owned() },
        other => failed(TantivyError::LockFailure(other, None)),
    })
}

/// Removes all but the locks: another process may wait on them.
fn empty_directory(path: &Path) -> Result<(), SearchError> {
    let failed = |source| SearchError::Directory {
        operation: "empty the search index",
        path: path.to_owned(),
        source,
    };
    // First what makes it an index.
    for first in ["meta.json", ".managed.json"] {
        match std::fs::remove_file(path.join(first)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_lock = entry.file_name().to_string_lossy().ends_with(".lock");
        if !is_lock {
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            let path = entry.path();
            if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
                .map_err(failed)?;
        }
    }
    Ok(())
}
