use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{AdapterError, disk};
use crate::model::{AdapterId, Micros};

/// The names that apps use for a model with what was learned, each with all its moves.
///
/// One file holds all of it, so that a move is one rename.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aliases {
    version: u32,
    aliases: BTreeMap<String, Vec<Move>>,
}

/// The form of the file that this code writes.
const VERSION: u32 = 1;

/// One step of an alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    pub at: Micros,
    pub kind: MoveKind,
    /// Where it points since then; none: at the base model.
    pub to: Option<AdapterId>,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveKind {
    Promote,
    Rollback,
}

/// A stable model name, and what it points at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alias {
    pub name: String,
    /// Oldest first.
    pub moves: Vec<Move>,
}

impl Alias {
    /// The adapter it points at; none: the base model.
    #[must_use]
    pub fn current(&self) -> Option<AdapterId> {
        self.moves.last().and_then(|m| m.to)
    }

    /// What a rollback goes to; the outer none: there is nothing to go back to.
    #[must_use]
    pub fn before(&self) -> Option<Option<AdapterId>> {
        let mut stack = self.stack();
        stack.pop();
        stack.pop()
    }

    /// What was promoted and not taken back, on top of the base.
    fn stack(&self) -> Vec<Option<AdapterId>> {
        let mut stack = vec![None];
        for step in &self.moves {
            match step.kind {
                MoveKind::Promote => stack.push(step.to),
                MoveKind::Rollback => drop(stack.pop()),
            }
        }
        stack
    }

    /// The last move that took `id` out of use.
    pub(super) fn displaced(&self, id: AdapterId) -> Option<&Move> {
        self.moves.windows(2).rev().find(|w| w[0].to == Some(id) && w[1].to != Some(id)).map(|w| &w[1])
    }

    /// Moves must lead to one another: a file that was edited by hand may say anything.
    fn is_sound(&self) -> bool {
        (1..=self.moves.len()).all(|n| {
            let so_far = Self { name: String::new(), moves: self.moves[..n].to_vec() };
            so_far.stack().last() == Some(&so_far.current())
        })
    }
}

impl Aliases {
    /// Reads the file; no file: no aliases.
    pub(super) fn read(path: &Path) -> Result<Self, AdapterError> {
        let Some(read) = disk::read_json::<Self>(path)? else {
            return Ok(Self { version: VERSION, aliases: BTreeMap::new() });
        };
        let damaged = |reason| AdapterError::Damaged { path: path.to_owned(), reason };
        if read.version != VERSION {
            return Err(damaged(format!(
                "it has version {}, this Remora reads version {VERSION}",
                read.version
            )));
        }
        let unsound = read.iter().find(|alias| !alias.is_sound());
        match unsound {
            Some(alias) => Err(damaged(format!(
                "the moves of {:?} do not lead to one another; was it edited by hand? It is left as it is",
                alias.name
            ))),
            None => Ok(read),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), AdapterError> {
        let text = serde_json::to_vec_pretty(self).expect("aliases are plain data");
        disk::replace(path, &text)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Alias> {
        self.aliases.iter().map(|(name, moves)| Alias { name: name.clone(), moves: moves.clone() })
    }

    pub(super) fn get(&self, name: &str) -> Option<Alias> {
        self.aliases.get(name).map(|moves| Alias { name: name.to_owned(), moves: moves.clone() })
    }

    pub(super) fn push(&mut self, name: &str, step: Move) {
        self.aliases.entry(name.to_owned()).or_default().push(step);
    }
}

/// Whether a name may be an alias: it stands in requests, addresses and terminals.
pub(super) fn check_name(name: &str) -> Result<(), AdapterError> {
    let why = if name.is_empty() || name.len() > 128 {
        "it must have 1 to 128 characters"
    } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c)) {
        "it may hold letters, digits, and - _ . : /"
    } else if name.starts_with("ad_") {
        "what begins with ad_ are adapters themselves"
    } else {
        return Ok(());
    };
    Err(AdapterError::AliasName { name: name.to_owned(), why })
}
