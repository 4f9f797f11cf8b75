//! The directory that a night and its child process share.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::chat::Chat;
use super::super::jsonl;
use super::{PassError, Report};
use crate::config::Train;
use crate::model::Scope;

/// What a pass is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub scope: Scope,
    /// The base model, as the configuration names it.
    pub model: String,
    pub settings: Train,
}

/// A work directory: `order.json`, `training.jsonl` and `held-out.jsonl` go in; `report.json` and `adapter/` come out.
/// The two JSONL files can be trained on by hand, with `remora train lora`.
#[derive(Clone, Debug)]
pub struct Work(PathBuf);

impl Work {
    /// A directory that was [made](Self::make).
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes a directory, which only its owner can look into, in the place of one that was left there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn make(path: &Path, order: &Order, training: &[Chat], held_out: &[Chat]) -> Result<Self, PassError> {
        let work = Self(path.to_owned());
        work.clear()?;
        let mut private = fs::DirBuilder::new();
        private.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
        private.create(path).map_err(failed(path))?;
        for (name, chats) in [(TRAINING, training), (HELD_OUT, held_out)] {
            let path = work.0.join(name);
            jsonl::write(&path, chats).map_err(failed(&path))?;
        }
        work.write(ORDER, order)?;
        Ok(work)
    }

    /// Removes it, with the conversations in it, which retention would not find here.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn clear(&self) -> Result<(), PassError> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(&self.0)(e)),
            _ => Ok(()),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The PEFT directory that a pass writes.
    #[must_use]
    pub fn adapter(&self) -> PathBuf {
        self.0.join("adapter")
    }

    /// # Errors
    /// When it is not there, or not what [`make`](Self::make) wrote.
    pub fn order(&self) -> Result<Order, PassError> {
        let order: Option<Order> = self.read(ORDER)?;
        order.ok_or_else(|| failed(&self.0.join(ORDER))(std::io::ErrorKind::NotFound.into()))
    }

    pub(super) fn training(&self) -> Result<Vec<Chat>, PassError> {
        self.chats(TRAINING)
    }

    pub(super) fn held_out(&self) -> Result<Vec<Chat>, PassError> {
        self.chats(HELD_OUT)
    }

    fn chats(&self, name: &str) -> Result<Vec<Chat>, PassError> {
        match jsonl::read(&self.0.join(name)) {
            Err(jsonl::JsonlError::Empty { .. }) => Ok(Vec::new()),
            read => Ok(read?),
        }
    }

    /// Writes what came of the pass.
    pub(super) fn report(&self, report: &Report) -> Result<(), PassError> {
        self.write(REPORT, report)
    }

    /// What came of the pass; none: it did not end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_report(&self) -> Result<Option<Report>, PassError> {
        self.read(REPORT)
    }

    /// Leaves word of why there is no report.
    pub fn fail(&self, why: &str) {
        // Without it the night says less, and goes on all the same.
        drop(fs::write(self.0.join(FAILURE), why));
    }

    /// Why there is no report, where the pass could tell.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        fs::read_to_string(self.0.join(FAILURE)).ok().filter(|why| !why.is_empty())
    }

    /// There whole or not at all.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), PassError> {
        write_whole(&self.0.join(name), value)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, PassError> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let value = serde_json::from_slice(&bytes);
                value.map(Some).map_err(|source| PassError::Order { path, source })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(&path)(e)),
        }
    }
}

const ORDER: &str = "order.json";
const TRAINING: &str = "training.jsonl";
const HELD_OUT: &str = "held-out.jsonl";
const REPORT: &str = "report.json";
const FAILURE: &str = "failure.txt";

/// Writes a file of JSON that is there whole or not at all.
pub(in crate::train) fn write_whole(path: &Path, value: &impl Serialize) -> Result<(), PassError> {
    let text = serde_json::to_vec_pretty(value).expect("it is plain data");
    let new = path.with_extension("new");
    let write = || {
        let mut file = fs::File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(failed(path))
}

pub(in crate::train) fn failed(path: &Path) -> impl Fn(std::io::Error) -> PassError {
    let path = path.to_owned();
    move |source| PassError::File { path: path.clone(), source }
}
