use std::collections::HashMap;

use rusqlite::params;

use super::columns::{Col, Named};
use super::{Store, StoreError};
use crate::model::{FailingStep, Micros, Outcome, Scope, TrajectoryId, Vote, VoteSource};

/// An outcome to be kept, and the votes it came from.
#[derive(Clone, Debug)]
pub struct Assessment {
    pub trajectory: TrajectoryId,
    /// The trajectory's revision that was read: a later one stays due.
    pub revision: i64,
    pub outcome: Outcome,
    pub votes: Vec<Vote>,
}

impl Store {
    /// Trajectories whose outcome is older than their last exchange or feedback, with their revision; those that
    /// ended before `quiet_since` only, oldest first.
    pub fn unassessed(
        &self,
        quiet_since: Micros,
        limit: u32,
    ) -> Result<Vec<(TrajectoryId, i64)>, StoreError> {
        const SQL: &str = "SELECT id, revision FROM trajectory \
             WHERE assessed < revision AND ended <= ?1 ORDER BY last_seq LIMIT ?2";
        self.read("list unassessed trajectories", |db| {
            db.prepare_cached(SQL)?
                .query_map(params![Col(quiet_since), limit], |r| Ok((r.get::<_, Col<_>>(0)?.0, r.get(1)?)))?
                .collect()
        })
    }

    /// Replaces outcomes and derived votes, all in one transaction.
    pub fn assess(&self, assessments: &[Assessment]) -> Result<(), StoreError> {
        const OUTCOME: &str = "UPDATE trajectory SET p_success = ?2, label = ?3, failing_step = ?4, \
             failing_reason = ?5, assessed = ?6 WHERE id = ?1";
        const FORGET: &str = "DELETE FROM vote WHERE trajectory_id = ?1";
        const VOTE: &str = "INSERT INTO vote (trajectory_id, source, value, confidence, step, evidence) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.write("keep outcomes", |tx| {
            for a in assessments {
                let id = Col(a.trajectory);
                let failing = a.outcome.failing_step.as_ref();
                tx.prepare_cached(OUTCOME)?.execute(params![
                    id,
                    a.outcome.p_success,
                    a.outcome.label.as_str(),
                    failing.map(|f| f.step as i64),
                    failing.map(|f| &f.reason),
                    a.revision,
                ])?;
                tx.prepare_cached(FORGET)?.execute([id])?;
                for vote in &a.votes {
                    tx.prepare_cached(VOTE)?.execute(params![
                        id,
                        vote.source.to_string(),
                        vote.value,
                        vote.confidence,
                        vote.step.map(|s| s as i64),
                        vote.evidence,
                    ])?;
                }
            }
            Ok(())
        })
    }

    /// The votes on one trajectory.
    pub fn votes(&self, trajectory: TrajectoryId) -> Result<Vec<Vote>, StoreError> {
        const SQL: &str =
            "SELECT source, value, confidence, step, evidence FROM vote WHERE trajectory_id = ?1 ORDER BY id";
        self.read("read votes", |db| {
            db.prepare_cached(SQL)?
                .query_map([Col(trajectory)], |r| {
                    Ok(Vote {
                        source: r.get::<_, Named<VoteSource>>(0)?.0,
                        value: r.get(1)?,
                        confidence: r.get(2)?,
                        step: r.get::<_, Option<i64>>(3)?.map(|s| s.max(0) as usize),
                        evidence: r.get(4)?,
                    })
                })?
                .collect()
        })
    }

    /// All votes of a scope's trajectories (any user), for the label model.
    pub fn votes_of_scope(&self, scope: &Scope) -> Result<HashMap<TrajectoryId, Vec<Vote>>, StoreError> {
        const SQL: &str = "SELECT v.trajectory_id, v.source, v.value, v.confidence, v.step, v.evidence \
             FROM vote v JOIN trajectory t ON t.id = v.trajectory_id WHERE t.tenant = ?1 AND t.app = ?2 ORDER BY v.id";
        self.read("read the votes of a scope", |db| {
            let mut votes: HashMap<TrajectoryId, Vec<Vote>> = HashMap::new();
            let mut query = db.prepare_cached(SQL)?;
            let mut rows = query.query([&scope.tenant, &scope.app])?;
            while let Some(r) = rows.next()? {
                votes.entry(r.get::<_, Col<_>>(0)?.0).or_default().push(Vote {
                    source: r.get::<_, Named<VoteSource>>(1)?.0,
                    value: r.get(2)?,
                    confidence: r.get(3)?,
                    step: r.get::<_, Option<i64>>(4)?.map(|s| s.max(0) as usize),
                    evidence: r.get(5)?,
                });
            }
            Ok(votes)
        })
    }

    /// The outcomes of a scope's assessed trajectories (any user), each with the revision that it is of.
    pub fn outcomes_of_scope(&self, scope: &Scope) -> Result<Vec<(TrajectoryId, i64, Outcome)>, StoreError> {
        const SQL: &str = "SELECT id, assessed, p_success, label, failing_step, failing_reason FROM trajectory \
             WHERE tenant = ?1 AND app = ?2 AND assessed > 0 ORDER BY id";
        self.read("read the outcomes of a scope", |db| {
            db.prepare_cached(SQL)?
                .query_map([&scope.tenant, &scope.app], |r| {
                    let failing = r.get::<_, Option<i64>>(4)?.zip(r.get::<_, Option<String>>(5)?);
                    let outcome = Outcome {
                        p_success: r.get(2)?,
                        label: r.get::<_, Named<_>>(3)?.0,
                        failing_step: failing
                            .map(|(step, reason)| FailingStep { step: step.max(0) as usize, reason }),
                    };
                    Ok((r.get::<_, Col<_>>(0)?.0, r.get(1)?, outcome))
                })?
                .collect()
        })
    }

    /// What the label model learned of each source in a scope.
    pub fn source_accuracies(&self, scope: &Scope) -> Result<HashMap<String, f64>, StoreError> {
        const SQL: &str = "SELECT source, accuracy FROM source_accuracy WHERE tenant = ?1 AND app = ?2";
        self.read("read source accuracies", |db| {
            db.prepare_cached(SQL)?
                .query_map([&scope.tenant, &scope.app], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect()
        })
    }

    /// Replaces what the label model learned: (source, accuracy, votes it was learned from).
    pub fn keep_source_accuracies(
        &self,
        scope: &Scope,
        learned: &[(String, f64, u64)],
    ) -> Result<(), StoreError> {
        self.write("keep source accuracies", |tx| {
            tx.execute("DELETE FROM source_accuracy WHERE tenant = ?1 AND app = ?2", [&scope.tenant, &scope.app])?;
            for (source, accuracy, votes) in learned {
                tx.execute(
                    "INSERT INTO source_accuracy (tenant, app, source, accuracy, votes) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![scope.tenant, scope.app, source, accuracy, *votes as i64],
                )?;
            }
            Ok(())
        })
    }
}
