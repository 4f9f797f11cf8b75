//! The parts of a commit: who, when, which bytes.

use std::collections::HashSet;
use std::path::Path;

use git2::{IndexEntry, IndexTime, Oid, Signature, Time};

use super::repo::Change;
use crate::model::Micros;

/// The address that nights commit under.
pub(super) const EMAIL: &str = "remora@localhost";

#[derive(Clone, Copy)]
pub(super) enum Author {
    Remora,
    /// What people changed; nights respect it.
    Owner,
}

impl Author {
    pub(super) fn signature(self, when: Micros) -> Result<Signature<'static>, git2::Error> {
        let time = Time::new(when.0.div_euclid(1_000_000), 0);
        match self {
            Self::Remora => Signature::new("Remora", EMAIL, &time),
            Self::Owner => Signature::new("Owner", "owner@localhost", &time),
        }
    }
}

/// The files that an index has conflicts in; none where it has none.
pub(super) fn conflicts(index: &git2::Index) -> Result<Option<String>, git2::Error> {
    if !index.has_conflicts() {
        return Ok(None);
    }
    let name = |c: git2::IndexConflict| {
        c.our.or(c.their).or(c.ancestor).map(|e| String::from_utf8_lossy(&e.path).into_owned())
    };
    let mut files: Vec<String> = index.conflicts()?.flatten().filter_map(name).collect();
    files.sort();
    files.dedup();
    Ok(Some(files.join(", ")))
}

/// Puts changes into an index.
pub(super) fn stage(index: &mut git2::Index, changes: &[Change]) -> Result<(), git2::Error> {
    let known: HashSet<Vec<u8>> = index.iter().map(|e| e.path).collect();
    for (path, content) in changes {
        match content {
            // From memory: filters of the owner's configuration do not change the bytes.
            Some(content) => index.add_frombuffer(&index_entry(path), content.as_bytes())?,
            None if known.contains(path.as_bytes()) => index.remove_path(Path::new(path))?,
            None => {}
        }
    }
    Ok(())
}

/// An entry for a plain file that no stat data is known of.
pub(super) fn index_entry(path: &str) -> IndexEntry {
    IndexEntry {
        ctime: IndexTime::new(0, 0),
        mtime: IndexTime::new(0, 0),
        dev: 0,
        ino: 0,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        file_size: 0,
        id: Oid::ZERO_SHA1,
        flags: 0,
        flags_extended: 0,
        path: path.as_bytes().to_vec(),
    }
}
