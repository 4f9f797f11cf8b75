use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::DreamError;
use super::case::Case;
use super::draft::{Ground, draft};
use super::features;
use super::identity::{Known, place};
use super::ledger::{Past, settle};
use super::report::{diary, message, printable};
use super::select::{Selection, select};
use crate::config::{self, Review};
use crate::model::{self, LessonState, Micros, NightId, NightPhase, Scope, TrajectoryId};
use crate::search::Embedder;
use crate::skills::{DiaryEntry, OwnerDecision, Publication, Repo, owner_decisions, publish};
use crate::store::{Begun, Store};
use crate::{outcome, trajectory};

/// How long a night is believed alive without a word from it. It says one every quarter of that while it reads and
/// embeds; clustering the most failures that a night looks at takes a small part of it.
const LEASE: Duration = Duration::from_secs(180);
/// Refused lessons kept in a report.
const REJECTED: usize = 50;

/// Told about progress: the phase, how much of how much is done.
pub type Progress<'a> = dyn FnMut(NightPhase, u64, u64) + 'a;

/// One night of one scope.
pub struct Night<'a> {
    store: &'a Store,
    config: &'a config::Dream,
    embedder: &'a dyn Embedder,
    /// The time that the night counts from, and when that was on this process's clock.
    now: Micros,
    began: Instant,
    leased: Instant,
    night: model::Night,
    /// Read once, in the first phase that needs it.
    selection: Option<Selection>,
    #[cfg(test)]
    kill_after: Option<NightPhase>,
}

/// Brings assembly and outcomes up to date, then runs a night for every scope that has trajectories, in order of their
/// names; the first error ends it.
pub fn run_all(
    store: &Store,
    config: &config::Dream,
    embedder: &dyn Embedder,
    now: Micros,
    progress: &mut Progress<'_>,
) -> Result<Vec<model::Night>, DreamError> {
    trajectory::catch_up(store)?;
    outcome::assess(store, now)?;
    store
        .scopes()?
        .iter()
        .map(|scope| {
            outcome::relearn(store, scope)?;
            Night::run(store, config, embedder, scope, now, progress)
        })
        .collect()
}

impl<'a> Night<'a> {
    /// Runs a scope's night from where it is to its end: a new one, or one that was killed. Outcomes are taken as they
    /// are; without new ones it ends at once, with `report.nothing_new`.
    ///
    /// # Errors
    /// [`DreamError::Running`] while another process is at it. After any other error the night counts as failed, and
    /// the next one starts over; what was kept is kept.
    pub fn run(
        store: &'a Store,
        config: &'a config::Dream,
        embedder: &'a dyn Embedder,
        scope: &Scope,
        now: Micros,
        progress: &mut Progress<'_>,
    ) -> Result<model::Night, DreamError> {
        Self::begin(store, config, embedder, scope, now)?.finish(progress)
    }

    fn begin(
        store: &'a Store,
        config: &'a config::Dream,
        embedder: &'a dyn Embedder,
        scope: &Scope,
        now: Micros,
    ) -> Result<Self, DreamError> {
        let scope = scope.of_app();
        let night = match store.begin_night(&scope, NightId::new(), now, now.plus(LEASE))? {
            Begun::New(night) | Begun::Resumed(night) => night,
            Begun::Running { night, since, until } => {
                return Err(DreamError::Running { scope, night, since, until });
            }
        };
        Ok(Self {
            store,
            config,
            embedder,
            now,
            began: Instant::now(),
            leased: Instant::now(),
            night,
            selection: None,
            #[cfg(test)]
            kill_after: None,
        })
    }

    /// The same night, which dies after a phase.
    #[cfg(test)]
    pub(super) fn killed_after(
        store: &'a Store,
        config: &'a config::Dream,
        embedder: &'a dyn Embedder,
        scope: &Scope,
        now: Micros,
        phase: NightPhase,
    ) -> Result<model::Night, DreamError> {
        let mut night = Self::begin(store, config, embedder, scope, now)?;
        night.kill_after = Some(phase);
        night.finish(&mut |_, _, _| {})
    }

    fn finish(mut self, progress: &mut Progress<'_>) -> Result<model::Night, DreamError> {
        match self.phases(progress) {
            Ok(()) => Ok(self.night),
            #[cfg(test)]
            Err(killed @ DreamError::Killed(_)) => Err(killed),
            Err(error) => {
                self.night.phase = NightPhase::Failed;
                self.night.error = Some(error.to_string());
                self.night.ended = Some(self.time());
                // The first error is the one to report.
                let _ = self.store.keep_night(&self.night);
                Err(error)
            }
        }
    }

    fn phases(&mut self, progress: &mut Progress<'_>) -> Result<(), DreamError> {
        loop {
            let phase = self.night.phase;
            match phase {
                NightPhase::Select => self.select(progress)?,
                NightPhase::Cluster => self.cluster(progress)?,
                NightPhase::Draft => self.draft(progress)?,
                NightPhase::Commit => self.commit(progress)?,
                NightPhase::Done | NightPhase::Failed => {
                    progress(NightPhase::Done, 1, 1);
                    return Ok(());
                }
            }
            self.store.extend_night(self.night.id, self.time().plus(LEASE))?;
            #[cfg(test)]
            if self.kill_after == Some(phase) {
                return Err(DreamError::Killed(phase));
            }
        }
    }

    /// The night's clock.
    fn time(&self) -> Micros {
        self.now.plus(self.began.elapsed())
    }

    fn stay_alive(&mut self) -> Result<(), DreamError> {
        if self.leased.elapsed() > LEASE / 4 {
            self.leased = Instant::now();
            self.store.extend_night(self.night.id, self.time().plus(LEASE))?;
        }
        Ok(())
    }

    /// What the result depends on: outcomes, the feature space and the settings.
    fn material(&self) -> Result<(String, i64), DreamError> {
        let (outcomes, watermark) = self.store.material(&self.night.scope)?;
        let settings =
            format!("{:?} {} {}", self.config.review, self.config.min_cluster, self.config.max_new_lessons);
        Ok((format!("{outcomes} {} {settings}", features::space(self.embedder)), watermark))
    }

    fn select(&mut self, progress: &mut Progress<'_>) -> Result<(), DreamError> {
        progress(NightPhase::Select, 0, 1);
        let (material, watermark) = self.material()?;
        self.night.watermark = watermark;
        if self.store.last_material(&self.night.scope)?.as_ref() == Some(&material) {
            self.night.report.nothing_new = true;
            self.end()?;
        } else {
            self.night.phase = NightPhase::Cluster;
            self.store.keep_night(&self.night)?;
        }
        progress(NightPhase::Select, 1, 1);
        Ok(())
    }

    fn selection(&mut self, progress: &mut Progress<'_>) -> Result<Selection, DreamError> {
        if let Some(selection) = self.selection.take() {
            return Ok(selection);
        }
        let phase = self.night.phase;
        let (store, scope) = (self.store, self.night.scope.clone());
        let mut late = Ok(());
        let selection = select(store, &scope, &mut |done, of| {
            progress(phase, done, of);
            if late.is_ok() {
                late = self.stay_alive();
            }
        })?;
        late?;
        Ok(selection)
    }

    fn cluster(&mut self, progress: &mut Progress<'_>) -> Result<(), DreamError> {
        // Before reading: what comes while it reads is for the next night.
        let (material, watermark) = self.material()?;
        let selection = self.selection(progress)?;
        let scope = self.night.scope.clone();
        let failures: Vec<&Case> = selection.cases.iter().filter(|c| c.failed).collect();
        let total = failures.len() as u64;
        let (embedder, mut late) = (self.embedder, Ok(()));
        let rows = features::features(&failures, embedder, &mut |done| {
            progress(NightPhase::Cluster, done, total);
            if late.is_ok() {
                late = self.stay_alive();
            }
        })?;
        late?;
        let space = features::space(self.embedder);
        let spaces = self.store.cluster_spaces(&scope)?;
        let known = Known {
            clusters: self.store.clusters(&scope)?,
            comparable: spaces.into_iter().filter(|(_, s)| *s == space).map(|(id, _)| id).collect(),
            membership: selection.membership.clone(),
        };
        let smallest = self.config.min_cluster.max(2) as usize;
        let placed = place(&failures, &rows, &known, smallest, &scope, self.night.started, &selection.cases);
        let mut members = placed.members;
        // Failures too old to be read keep their cluster.
        members
            .extend(selection.passed_over.iter().filter_map(|t| Some((*t, *selection.membership.get(t)?))));

        let report = &mut self.night.report;
        report.trajectories = selection.trajectories;
        report.successes = selection.successes;
        report.failures = selection.failures;
        report.assigned = placed.assigned;
        report.clusters_new = placed.new;
        report.clusters_total = placed.clusters.iter().filter(|c| c.size > 0).count() as u64;
        report.unclustered = placed.unclustered;
        self.night.watermark = watermark;
        self.night.phase = NightPhase::Draft;
        self.store.keep_clusters(&self.night, &material, &space, &placed.clusters, &members)?;
        self.selection = Some(selection);
        Ok(())
    }

    fn draft(&mut self, progress: &mut Progress<'_>) -> Result<(), DreamError> {
        progress(NightPhase::Draft, 0, 1);
        if self.config.review == Review::Off {
            return self.end();
        }
        let scope = self.night.scope.clone();
        self.heed_owner()?;
        let selection = self.selection(progress)?;
        // As the store has them now: this may be a later process than the one that clustered.
        let members: HashMap<TrajectoryId, model::ClusterId> = self
            .store
            .trajectories(&crate::store::TrajectoryFilter {
                tenant: Some(scope.tenant.clone()),
                app: Some(scope.app.clone()),
                label: Some(model::Label::Failure),
                ..Default::default()
            })?
            .iter()
            .filter_map(|t| Some((t.id, t.cluster_id?)))
            .collect();
        let mut tasks = Vec::with_capacity(selection.cases.len());
        for batch in selection.cases.chunks(64) {
            let texts: Vec<&str> = batch.iter().map(|c| c.task.as_str()).collect();
            tasks.extend(self.embedder.embed(&texts)?);
            self.stay_alive()?;
        }
        let clusters = self.store.clusters(&scope)?;
        let ground = Ground {
            scope: &scope,
            night: self.night.id,
            cases: &selection.cases,
            tasks: &tasks,
            members: &members,
        };
        let mut drafts = draft(&ground, &clusters, &mut |done, of| progress(NightPhase::Draft, done, of));
        drafts.rejected.truncate(REJECTED);

        let lessons = self.store.lessons(&scope)?;
        let (held, passed) = (self.store.held_lessons(&scope)?, self.store.passed_lessons(&scope)?);
        let past = Past { lessons: &lessons, passed: &passed, held: &held };
        let accept = self.config.review == Review::Auto;
        let most_new = self.config.max_new_lessons as usize;
        let (kept, new) = settle(&past, drafts.drafts, &clusters, most_new, accept);
        self.night.report.rejected = drafts.rejected;
        self.night.report.lessons_new = new;
        self.night.phase = NightPhase::Commit;
        self.store.keep_lessons(&self.night, &kept)?;
        self.selection = Some(selection);
        Ok(())
    }

    /// Takes over what the owner did to lessons by hand.
    fn heed_owner(&self) -> Result<(), DreamError> {
        let scope = &self.night.scope;
        let Some(repo) = Repo::find(&self.store.dir().learned(&scope.tenant))? else { return Ok(()) };
        for decision in owner_decisions(&repo, scope)? {
            match decision {
                OwnerDecision::Edited { id, text } => {
                    self.store.hold_lesson(&id, Some(&text), self.night.started)?
                }
                OwnerDecision::Removed { id } => self.store.hold_lesson(&id, None, self.night.started)?,
            }
        }
        Ok(())
    }

    fn commit(&mut self, progress: &mut Progress<'_>) -> Result<(), DreamError> {
        progress(NightPhase::Commit, 0, 1);
        let scope = self.night.scope.clone();
        let propose = self.config.review == Review::Propose;
        let mut lessons = self.store.lessons(&scope)?;
        let standing = |l: &&model::Lesson| l.state != LessonState::Retired;
        self.night.report.lessons_total = lessons.iter().filter(standing).count() as u64;
        let dir = self.store.dir().learned(&scope.tenant);
        // Nothing to say and nothing said before: no repository is made.
        if !lessons.is_empty() {
            if propose {
                let passed = self.store.passed_lessons(&scope)?;
                lessons
                    .iter_mut()
                    .filter(|l| passed.contains(&l.id) && l.state == LessonState::Watch)
                    .for_each(|l| {
                        l.state = LessonState::Active;
                    });
            }
            let mut clusters = self.store.clusters(&scope)?;
            clusters.iter_mut().for_each(|c| c.title = printable(c));
            let diary = DiaryEntry::of(&self.night, diary(&self.night, &lessons, &clusters));
            let repo = Repo::open(&dir)?;
            let published = publish(
                &repo,
                &Publication {
                    scope: &scope,
                    night: self.night.id,
                    when: self.night.started,
                    lessons: &lessons,
                    clusters: &clusters,
                    diary: &diary,
                    message: &message(&self.night, &lessons, &clusters),
                    propose,
                },
            )?;
            self.store.retire_lessons(&published.dropped, self.night.started)?;
            self.night.commit = published.commit;
        }
        progress(NightPhase::Commit, 1, 1);
        self.end()
    }

    fn end(&mut self) -> Result<(), DreamError> {
        self.night.phase = NightPhase::Done;
        self.night.ended = Some(self.time());
        self.night.report.seconds = self.began.elapsed().as_secs_f64();
        Ok(self.store.keep_night(&self.night)?)
    }
}
