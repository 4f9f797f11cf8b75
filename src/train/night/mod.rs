//! A night that trains: select, train in a child process, decide, register.
//!
//! In: the store, the settings, and how to start the child. Out: a [`Run`] a scope, kept under `training/runs/`, and where
//! something was trained, an adapter in the registry: a candidate that passed the gate, or one that was refused, with the
//! reasons.
//!
//! Always true: at most one night trains on a data directory; the child's crash costs that scope's night and no other; a
//! night that was killed leaves nothing that the next one would take for its own; without anything new nothing is trained;
//! the conversations are gone from the work directory when the night is over.

mod child;
mod release;
mod runs;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::chat::Chat;
use super::pass::{self, Line, Order, PassError, Report, Work, least_held_out};
use super::select::{Kind, Sample, Selection, select};
use crate::adapters::{AdapterError, Candidate, Registry};
use crate::config::Train;
use crate::model::{
    AdapterBase, AdapterExamples, AdapterId, AdapterScores, AdapterState, BeforeAfter, Micros, Scope,
};
use crate::store::{FileLock, Store, StoreError};

pub use release::{Release, release};
pub use runs::{Ended, Run, Selected, runs};

/// A night cannot train. What was there before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum NightError {
    #[error("another training is under way (it holds {path})", path = path.display())]
    Running { path: PathBuf },

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(transparent)]
    Files(#[from] PassError),

    #[error(transparent)]
    Adapters(#[from] AdapterError),
}

/// What a night needs.
pub struct Means<'a> {
    pub store: &'a Store,
    pub settings: &'a Train,
    /// The base model, as the configuration or the command line names it.
    pub model: &'a str,
    /// Train although nothing is new.
    pub again: bool,
    /// The command that runs a pass in a work directory, printing its progress.
    pub start: &'a dyn Fn(&Work) -> Command,
}

/// The turn to train on a data directory; others have to wait until it is dropped.
#[must_use = "it is another's turn when it is dropped"]
pub struct Night<'a> {
    means: Means<'a>,
    _lock: FileLock,
}

impl<'a> Night<'a> {
    /// Takes the turn.
    ///
    /// # Errors
    /// When another process has it, or the disk fails.
    pub fn begin(means: Means<'a>) -> Result<Self, NightError> {
        let dir = means.store.dir().training();
        let failed = pass::failed(&dir);
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
        private.create(&dir).map_err(&failed)?;
        let path = dir.join("lock");
        match FileLock::take(&path).map_err(&failed)? {
            Some(lock) => Ok(Self { means, _lock: lock }),
            None => Err(NightError::Running { path }),
        }
    }

    /// Trains for one scope, whose outcomes are taken as they are. What goes wrong in training is the run's end, not an
    /// error; `told` hears of the child's progress.
    ///
    /// # Errors
    /// When store, disk or registry fail.
    pub fn train(&self, scope: &Scope, told: &mut dyn FnMut(&Line)) -> Result<Run, NightError> {
        let Means { store, settings, model, again, .. } = self.means;
        let scope = scope.of_app();
        let started = Micros::now();
        let selection = select(store, &scope, &settings.examples)?;
        let material = material(&selection, settings, model);
        let mut run = Run {
            scope: scope.clone(),
            started,
            ended: started,
            model: model.to_owned(),
            outcome: Ended::TooFew,
            reasons: Vec::new(),
            selected: Selected::of(&selection),
            adapter: None,
            pass: None,
            material,
        };
        let dir = store.dir();
        let before = runs(dir)?.into_iter().find(|r| r.scope == scope && r.outcome.is_decided());
        if let Some(reason) = too_few(&selection, settings) {
            run.reasons.push(reason);
        } else if let Some(before) = before.filter(|before| !again && before.material == run.material) {
            run.outcome = Ended::NothingNew;
            run.adapter = self.unused(&before);
        } else {
            self.pass(&selection, &mut run, told)?;
        }
        run.ended = Micros::now();
        run.keep(dir)?;
        Ok(run)
    }

    /// The adapter of a run that was kept and could not be put to use yet.
    fn unused(&self, before: &Run) -> Option<AdapterId> {
        let id = before.adapter.filter(|_| before.outcome == Ended::Kept)?;
        let entry = Registry::open(self.means.store.dir()).get(id).ok()?;
        // What a person took back is retired, and stays so.
        (entry.state == AdapterState::Candidate).then_some(id)
    }

    /// Has the child train, and registers what it made.
    fn pass(
        &self,
        selection: &Selection,
        run: &mut Run,
        told: &mut dyn FnMut(&Line),
    ) -> Result<(), NightError> {
        let Means { store, settings, model, start, .. } = self.means;
        let order = Order { scope: run.scope.clone(), model: model.to_owned(), settings: settings.clone() };
        let (training, held_out) = (chats(&selection.training), chats(&selection.held_out));
        // A name of its own: a child that outlived its night for a moment finds its directory gone, not another's.
        let cleared = Cleared(store.dir().training().join("work"));
        cleared.now()?;
        let work = Work::make(&cleared.0.join(run.started.0.to_string()), &order, &training, &held_out)?;
        let ended = child::run(start(&work), told);
        let report = work.read_report()?;
        match (ended, report) {
            (Ok(()), Some(report)) => {
                run.outcome = if report.verdict.kept { Ended::Kept } else { Ended::Refused };
                run.reasons.clone_from(&report.verdict.reasons);
                if report.candidate.is_some() {
                    run.adapter = Some(self.register(selection, &report, &work, run)?);
                }
                run.pass = Some(report);
            }
            (ended, _) => {
                run.outcome = Ended::Failed;
                let how = ended.err().unwrap_or_else(|| "it ended without a report".into());
                run.reasons.extend([work.failure().unwrap_or(how)]);
            }
        }
        drop(cleared);
        Ok(())
    }

    fn register(
        &self,
        selection: &Selection,
        report: &Report,
        work: &Work,
        run: &Run,
    ) -> Result<AdapterId, NightError> {
        let registry = Registry::open(self.means.store.dir());
        let learned = || report.learned.iter().filter_map(|place| selection.training.get(*place));
        let corrections = learned().filter(|s| s.kind == Kind::Correction).count();
        let trajectories: BTreeSet<_> = learned().map(|s| s.trajectory).collect();
        let settings = self.means.settings;
        let id = registry.add(Candidate {
            files: work.adapter(),
            scope: run.scope.clone(),
            base: AdapterBase { model: run.model.clone(), hash: report.base_hash.clone() },
            trajectories: trajectories.into_iter().collect(),
            examples: AdapterExamples {
                training: report.training,
                corrections: corrections as u64,
                replay: report.replay,
                held_out: report.held_out,
            },
            options: json!({"examples": settings.examples, "lora": settings.lora, "gate": settings.gate}),
            scores: scores(report),
        })?;
        if !report.verdict.kept {
            let reasons = report.verdict.reasons.join("; ");
            registry.record_decision(id, AdapterState::Rejected, &reasons, None)?;
        }
        Ok(id)
    }
}

/// What the gate measured: the base at its best prompt against the candidate.
fn scores(report: &Report) -> AdapterScores {
    let Some(candidate) = &report.candidate else { return AdapterScores::default() };
    let (loss, task) = report.base.best();
    let pair = |before: Option<f64>, after: f64| before.map(|before| BeforeAfter { before, after });
    AdapterScores {
        // JSON has no NaN.
        held_out_loss: pair(loss, candidate.marks.loss).filter(|pair| pair.after.is_finite()),
        task: pair(task, candidate.marks.mean()),
        perplexity_rise: report
            .base
            .perplexity
            .zip(candidate.perplexity)
            .map(|(before, after)| after / before - 1.0)
            .filter(|rise| rise.is_finite()),
    }
}

/// Removes the work directories, however the night goes on.
struct Cleared(PathBuf);

impl Cleared {
    fn now(&self) -> Result<(), PassError> {
        Work::open(&self.0).clear()
    }
}

impl Drop for Cleared {
    fn drop(&mut self) {
        if let Err(error) = self.now() {
            tracing::warn!(%error, "the work directory of a training stays; the next one removes it");
        }
    }
}

fn chats(samples: &[Sample]) -> Vec<Chat> {
    samples.iter().map(|s| s.chat.clone()).collect()
}

fn too_few(selection: &Selection, settings: &Train) -> Option<String> {
    let (training, held_out) = (selection.training.len(), selection.held_out.len());
    let least = least_held_out(settings.gate.alpha);
    if training < settings.examples.least {
        let wanted = settings.examples.least;
        return Some(format!(
            "{training} conversations to learn from, {wanted} are wanted (train.examples.least)"
        ));
    }
    (held_out < least).then(|| {
        format!("{held_out} conversations are held out; with less than {least} the gate cannot tell luck from learning")
    })
}

/// What a training's result depends on.
fn material(selection: &Selection, settings: &Train, model: &str) -> String {
    let mut hash = Sha256::new();
    for (side, samples) in [("training", &selection.training), ("held out", &selection.held_out)] {
        hash.update(side);
        for sample in samples {
            hash.update(serde_json::to_vec(&sample.chat).expect("a conversation is plain data"));
        }
    }
    let settings = json!([model, settings.examples, settings.lora, settings.gate, env!("CARGO_PKG_VERSION")]);
    hash.update(settings.to_string());
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests;
