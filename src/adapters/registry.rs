use std::fs;
use std::path::PathBuf;

use ring::digest;

use super::aliases::{Alias, Aliases, Move, MoveKind, check_name};
use super::disk;
use super::entry::{Candidate, Decision, Entry, Listing, Moved};
use super::{AdapterError, CONFIG, WEIGHTS, blank};
use crate::model::{AdapterId, AdapterScores, AdapterState, Lineage, Micros};
use crate::store::{DataDir, FileLock};

type Result<T> = std::result::Result<T, AdapterError>;

/// All adapters of a data directory: a directory each, and `aliases.json`.
///
/// Nothing is kept in memory: each call reads the disk, each change is made under a lock that all processes share, and a
/// process killed in between leaves either what was or what should be.
#[derive(Clone, Debug)]
pub struct Registry {
    root: PathBuf,
}

/// Unfinished copies begin so.
const NEW: &str = ".new-";

impl Registry {
    /// The registry of a data directory. Nothing is created before something is added.
    #[must_use]
    pub fn open(dir: &DataDir) -> Self {
        Self { root: dir.adapters() }
    }

    /// The PEFT directory of an adapter.
    #[must_use]
    pub fn directory(&self, id: AdapterId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Takes a candidate in: its files are copied, it has an id from now on, and it never changes again.
    ///
    /// # Errors
    /// When `candidate.files` is no PEFT directory, or the disk fails; then nothing was added.
    pub fn add(&self, candidate: Candidate) -> Result<AdapterId> {
        let read = |name: &str| {
            let path = candidate.files.join(name);
            fs::read(&path).map_err(AdapterError::file("read", path))
        };
        let (weights, config) = (read(WEIGHTS)?, read(CONFIG)?);
        if !serde_json::from_slice(&config).is_ok_and(|c: serde_json::Value| c["r"].is_u64()) {
            let reason = "it is no configuration of a LoRA adapter: r is missing".to_owned();
            return Err(AdapterError::Damaged { path: candidate.files.join(CONFIG), reason });
        }
        let id = AdapterId::new();
        let lineage = Lineage {
            id,
            created: Micros::now(),
            scope: candidate.scope.of_app(),
            base: candidate.base,
            trajectories: candidate.trajectories,
            examples: candidate.examples,
            options: candidate.options,
            code: env!("CARGO_PKG_VERSION").to_owned(),
            weights_sha256: sha256(&weights),
            scores: candidate.scores,
        };
        let lineage = serde_json::to_vec_pretty(&lineage).expect("a lineage is plain data");

        let _turn = self.turn()?;
        self.clear_unfinished();
        let new = self.root.join(format!("{NEW}{id}"));
        disk::create_private(&new)?;
        for (name, bytes) in [(WEIGHTS, &weights), (CONFIG, &config), (LINEAGE, &lineage)] {
            disk::write(&new.join(name), bytes)?;
        }
        disk::sync_directory(&new)?;
        disk::rename(&new, &self.directory(id))?;
        Ok(id)
    }

    /// All adapters, latest first.
    ///
    /// # Errors
    /// When the registry as a whole cannot be read; single adapters that cannot be are in [`Listing::broken`].
    pub fn list(&self) -> Result<Listing> {
        let aliases = self.read_aliases()?;
        let mut listing = Listing::default();
        for id in self.ids()?.into_iter().rev() {
            match self.entry(id, &aliases) {
                Ok(entry) => listing.entries.push(entry),
                Err(error) => listing.broken.push(error),
            }
        }
        Ok(listing)
    }

    /// One adapter.
    ///
    /// # Errors
    /// When there is none, or its files cannot be read.
    pub fn get(&self, id: AdapterId) -> Result<Entry> {
        self.entry(id, &self.read_aliases()?)
    }

    /// The adapter that a person means: an alias, an id, or an id's beginning or end.
    ///
    /// # Errors
    /// When it is none or several.
    pub fn find(&self, given: &str) -> Result<AdapterId> {
        if let Some(id) = self.alias(given)?.and_then(|alias| alias.current()) {
            return Ok(id);
        }
        let digits = given.strip_prefix("ad_").unwrap_or(given);
        let mut found = self.ids()?;
        found.retain(|id| {
            let id = id.to_string();
            !digits.is_empty() && (id["ad_".len()..].starts_with(digits) || id.ends_with(digits))
        });
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(AdapterError::NoAdapter { given: given.to_owned() }),
            several => {
                let ids = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(AdapterError::Ambiguous { given: given.to_owned(), ids })
            }
        }
    }

    /// All aliases, by name.
    ///
    /// # Errors
    /// When their file cannot be read.
    pub fn aliases(&self) -> Result<Vec<Alias>> {
        Ok(self.read_aliases()?.iter().collect())
    }

    /// An alias; none: it was never promoted to.
    ///
    /// # Errors
    /// When their file cannot be read.
    pub fn alias(&self, name: &str) -> Result<Option<Alias>> {
        Ok(self.read_aliases()?.get(name))
    }

    /// The only alias there is: the one that a person means without naming it.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn only_alias(&self) -> Result<Alias> {
        let aliases = self.read_aliases()?;
        let mut all = aliases.iter();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(no_alias("", &aliases)),
        }
    }

    /// An alias that must be there.
    pub(super) fn known_alias(&self, name: &str) -> Result<Alias> {
        let aliases = self.read_aliases()?;
        aliases.get(name).ok_or_else(|| no_alias(name, &aliases))
    }

    /// Points `alias` at an adapter; what it pointed at before retires. Already there: nothing is done. This moves the
    /// record only; [`promote`](super::promote) moves servers, too.
    ///
    /// # Errors
    /// When there is no such adapter, its weights are not what was registered, or the alias belongs to another scope.
    pub fn promote(&self, id: AdapterId, alias: &str, reason: &str) -> Result<Moved> {
        let _turn = self.turn()?;
        let mut aliases = self.read_aliases()?;
        let from = self.may_point(&aliases, id, alias)?;
        let moved = Moved { alias: alias.to_owned(), from, to: Some(id) };
        if from != Some(id) {
            let step =
                Move { at: Micros::now(), kind: MoveKind::Promote, to: Some(id), reason: reason.to_owned() };
            aliases.push(alias, step);
            aliases.write(&self.aliases_file())?;
        }
        Ok(moved)
    }

    /// Points `alias` at exactly what it pointed at before its latest promotion that stands. The record only, as
    /// [`promote`](Self::promote).
    ///
    /// # Errors
    /// When there is no such alias, nothing to go back to, or what it would go back to is damaged.
    pub fn rollback(&self, alias: &str, reason: &str) -> Result<Moved> {
        let _turn = self.turn()?;
        let mut aliases = self.read_aliases()?;
        let known = aliases.get(alias).ok_or_else(|| no_alias(alias, &aliases))?;
        let to = known.before().ok_or_else(|| AdapterError::NothingBefore { alias: alias.to_owned() })?;
        if let Some(id) = to {
            self.check_weights(&self.lineage(id)?)?;
        }
        let step = Move { at: Micros::now(), kind: MoveKind::Rollback, to, reason: reason.to_owned() };
        aliases.push(alias, step);
        aliases.write(&self.aliases_file())?;
        Ok(Moved { alias: alias.to_owned(), from: known.current(), to })
    }

    /// Notes what the gate, or a person, decided on an adapter, with the scores it rests on.
    ///
    /// # Errors
    /// When `state` is active, which only a promotion makes, or the adapter is in use.
    pub fn record_decision(
        &self,
        id: AdapterId,
        state: AdapterState,
        reason: &str,
        scores: Option<AdapterScores>,
    ) -> Result<()> {
        if state == AdapterState::Active {
            return Err(AdapterError::NotByDecision { id });
        }
        let _turn = self.turn()?;
        let entry = self.get(id)?;
        if let Some(alias) = entry.aliases.into_iter().next()
            && state != AdapterState::Candidate
        {
            return Err(AdapterError::InUse { id, alias, state });
        }
        let mut decisions = entry.decisions;
        decisions.push(Decision { at: Micros::now(), state, reason: reason.to_owned(), scores });
        let text = serde_json::to_vec_pretty(&decisions).expect("decisions are plain data");
        disk::replace(&self.directory(id).join(DECISIONS), &text)
    }

    /// A PEFT directory that changes nothing, shaped like an adapter's: what stands for the base model where a server
    /// knows an alias only as an adapter.
    ///
    /// # Errors
    /// When the adapter cannot be read, or the disk fails.
    pub fn blank(&self, like: AdapterId) -> Result<PathBuf> {
        let to = self.root.join(format!("base-for-{like}"));
        let _turn = self.turn()?;
        if !to.join(WEIGHTS).exists() {
            self.clear_unfinished();
            blank::write(&self.directory(like), &self.root.join(format!("{NEW}base-{like}")), &to)?;
        }
        Ok(to)
    }

    /// Held while servers and the record are moved together.
    pub(super) fn releasing(&self) -> Result<FileLock> {
        disk::create_private(&self.root)?;
        let path = self.root.join("release.lock");
        let lock = FileLock::take(&path).map_err(AdapterError::file("lock", &path))?;
        lock.ok_or(AdapterError::Busy { path })
    }

    /// Whether `alias` may point at an adapter; what it points at now.
    pub(super) fn may_promote(&self, id: AdapterId, alias: &str) -> Result<Option<AdapterId>> {
        self.may_point(&self.read_aliases()?, id, alias)
    }

    /// As its callers say; what the alias points at now.
    fn may_point(&self, aliases: &Aliases, id: AdapterId, alias: &str) -> Result<Option<AdapterId>> {
        check_name(alias)?;
        let lineage = self.lineage(id)?;
        self.check_weights(&lineage)?;
        let Some(known) = aliases.get(alias) else { return Ok(None) };
        let former = known.moves.iter().rev().filter_map(|m| m.to).find_map(|id| self.lineage(id).ok());
        match former {
            Some(former) if former.scope != lineage.scope => Err(AdapterError::AliasOfAnother {
                alias: alias.to_owned(),
                owner: former.scope.to_string(),
                scope: lineage.scope.to_string(),
            }),
            _ => Ok(known.current()),
        }
    }

    fn check_weights(&self, lineage: &Lineage) -> Result<()> {
        let path = self.directory(lineage.id).join(WEIGHTS);
        let weights = fs::read(&path).map_err(AdapterError::file("read", &path))?;
        if sha256(&weights) == lineage.weights_sha256 {
            return Ok(());
        }
        let reason = "these are not the weights that were registered: the SHA-256 differs".to_owned();
        Err(AdapterError::Damaged { path, reason })
    }

    fn lineage(&self, id: AdapterId) -> Result<Lineage> {
        let path = self.directory(id).join(LINEAGE);
        let lineage: Lineage =
            disk::read_json(&path)?.ok_or_else(|| AdapterError::NoAdapter { given: id.to_string() })?;
        if lineage.id == id {
            return Ok(lineage);
        }
        let reason = format!("it is the lineage of {}", lineage.id);
        Err(AdapterError::Damaged { path, reason })
    }

    fn entry(&self, id: AdapterId, aliases: &Aliases) -> Result<Entry> {
        let lineage = self.lineage(id)?;
        let directory = self.directory(id);
        let decisions: Vec<Decision> = disk::read_json(&directory.join(DECISIONS))?.unwrap_or_default();
        let pointing: Vec<Alias> = aliases.iter().filter(|alias| alias.current() == Some(id)).collect();
        let last = |alias: &Alias| alias.moves.last().map(|m| (m.at, AdapterState::Active, m.reason.clone()));
        let active = pointing.iter().find_map(last);
        let displaced = aliases
            .iter()
            .filter_map(|alias| alias.displaced(id).map(|m| (m.at, AdapterState::Retired, m.reason.clone())));
        let decided = decisions.iter().map(|d| (d.at, d.state, d.reason.clone()));
        let (since, state, reason) = active
            .or_else(|| decided.chain(displaced).max_by_key(|(at, ..)| *at))
            .unwrap_or_else(|| (lineage.created, AdapterState::Candidate, String::new()));
        let scores = decisions.iter().rev().find_map(|d| d.scores).unwrap_or(lineage.scores);
        let aliases = pointing.into_iter().map(|alias| alias.name).collect();
        Ok(Entry { lineage, directory, state, since, reason, aliases, scores, decisions })
    }

    /// Oldest first. What others put there is not ours.
    fn ids(&self) -> Result<Vec<AdapterId>> {
        let listed = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(AdapterError::file("list", &self.root))?,
        };
        let mut ids = Vec::new();
        for entry in listed {
            let name = entry.map_err(AdapterError::file("list", &self.root))?.file_name();
            let name = name.to_str().filter(|name| name.starts_with("ad_"));
            ids.extend(name.and_then(|name| name.parse::<AdapterId>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn aliases_file(&self) -> PathBuf {
        self.root.join("aliases.json")
    }

    fn read_aliases(&self) -> Result<Aliases> {
        Aliases::read(&self.aliases_file())
    }

    /// Waits until no other process changes anything.
    fn turn(&self) -> Result<FileLock> {
        disk::create_private(&self.root)?;
        let path = self.root.join("lock");
        FileLock::wait(&path).map_err(AdapterError::file("lock", &path))
    }

    /// Takes away copies that a killed process left half; their originals are where they were.
    fn clear_unfinished(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(NEW) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }
}

const LINEAGE: &str = "lineage.json";
const DECISIONS: &str = "decisions.json";

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn no_alias(name: &str, aliases: &Aliases) -> AdapterError {
    let names: Vec<String> = aliases.iter().map(|alias| alias.name).collect();
    let known = if names.is_empty() {
        "; nothing was promoted yet".to_owned()
    } else {
        format!("; there is {}", names.join(", "))
    };
    AdapterError::NoAlias { name: name.to_owned(), known }
}
