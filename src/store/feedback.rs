use rusqlite::{OptionalExtension, params};

use super::columns::{Col, Named};
use super::{Store, StoreError};
use crate::model::{ExchangeId, Feedback, Label, Micros, Scope, TrajectoryId};

/// What somebody said an answer should have been.
#[derive(Clone, Debug, PartialEq)]
pub struct Correction {
    pub trajectory: TrajectoryId,
    /// Of which answer; none: it was given for the trajectory.
    pub exchange: Option<ExchangeId>,
    pub text: String,
    pub given: Micros,
}

impl Store {
    /// Keeps feedback; the trajectory's outcome becomes due again.
    pub fn give_feedback(
        &self,
        trajectory: TrajectoryId,
        exchange: Option<ExchangeId>,
        feedback: &Feedback,
    ) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT INTO feedback \
             (trajectory_id, exchange_id, label, reward, correction, comment, source, given) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        self.write("keep feedback", |tx| {
            tx.prepare_cached(INSERT)?.execute(params![
                Col(trajectory),
                exchange.map(Col),
                feedback.label.map(Label::as_str),
                feedback.reward,
                feedback.correction,
                feedback.comment,
                feedback.source,
                Col(feedback.given),
            ])?;
            tx.prepare_cached("UPDATE trajectory SET revision = revision + 1 WHERE id = ?1")?
                .execute([Col(trajectory)])?;
            Ok(())
        })
    }

    /// All feedback on a trajectory, oldest first.
    pub fn feedback(&self, trajectory: TrajectoryId) -> Result<Vec<Feedback>, StoreError> {
        const SQL: &str = "SELECT label, reward, correction, comment, source, given FROM feedback \
             WHERE trajectory_id = ?1 ORDER BY id";
        self.read("read feedback", |db| {
            db.prepare_cached(SQL)?
                .query_map([Col(trajectory)], |r| {
                    Ok(Feedback {
                        label: r.get::<_, Option<Named<Label>>>(0)?.map(|l| l.0),
                        reward: r.get(1)?,
                        correction: r.get(2)?,
                        comment: r.get(3)?,
                        source: r.get(4)?,
                        given: r.get::<_, Col<_>>(5)?.0,
                    })
                })?
                .collect()
        })
    }

    /// All corrections of a scope's answers (any user), oldest first.
    pub fn corrections(&self, scope: &Scope) -> Result<Vec<Correction>, StoreError> {
        const SQL: &str = "SELECT f.trajectory_id, f.exchange_id, f.correction, f.given \
             FROM feedback f JOIN trajectory t ON t.id = f.trajectory_id \
             WHERE t.tenant = ?1 AND t.app = ?2 AND f.correction IS NOT NULL ORDER BY f.given, f.id";
        self.read("read corrections", |db| {
            db.prepare_cached(SQL)?
                .query_map([&scope.tenant, &scope.app], |r| {
                    Ok(Correction {
                        trajectory: r.get::<_, Col<_>>(0)?.0,
                        exchange: r.get::<_, Option<Col<_>>>(1)?.map(|c| c.0),
                        text: r.get(2)?,
                        given: r.get::<_, Col<_>>(3)?.0,
                    })
                })?
                .collect()
        })
    }

    /// The trajectory and exchange of an upstream's response id; the latest where several answers share it.
    pub fn find_response(&self, response_id: &str) -> Result<Option<(TrajectoryId, ExchangeId)>, StoreError> {
        const SQL: &str = "SELECT trajectory_id, exchange_id FROM turn \
             WHERE response_id = ?1 AND trajectory_id IS NOT NULL ORDER BY seq DESC LIMIT 1";
        self.read("find a response id", |db| {
            db.prepare_cached(SQL)?
                .query_row([response_id], |r| Ok((r.get::<_, Col<_>>(0)?.0, r.get::<_, Col<_>>(1)?.0)))
                .optional()
        })
    }

    /// The trajectory of an exchange.
    pub fn find_exchange(&self, exchange: ExchangeId) -> Result<Option<TrajectoryId>, StoreError> {
        const SQL: &str =
            "SELECT trajectory_id FROM turn WHERE exchange_id = ?1 AND trajectory_id IS NOT NULL";
        self.read("find an exchange", |db| {
            db.prepare_cached(SQL)?
                .query_row([Col(exchange)], |r| r.get::<_, Col<_>>(0))
                .optional()
                .map(|c| c.map(|c| c.0))
        })
    }

    /// The latest trajectory of a session that a client named, in a tenant and, where one is named, in an app.
    pub fn find_session(
        &self,
        session_id: &str,
        tenant: &str,
        app: Option<&str>,
    ) -> Result<Option<TrajectoryId>, StoreError> {
        const SQL: &str = "SELECT id FROM trajectory \
             WHERE tenant = ?1 AND session_id = ?2 AND (?3 IS NULL OR app = ?3) ORDER BY started DESC LIMIT 1";
        self.read("find a session", |db| {
            db.prepare_cached(SQL)?
                .query_row(params![tenant, session_id, app], |r| r.get::<_, Col<_>>(0))
                .optional()
                .map(|c| c.map(|c| c.0))
        })
    }
}
