use rusqlite::{OptionalExtension, Row, params};

use super::columns::{Col, Named};
use super::{Store, StoreError};
use crate::model::{ClusterId, FailingStep, Label, Micros, Outcome, Scope, Trajectory, TrajectoryId};

/// Which trajectories are wanted, newest first. The default is all.
#[derive(Clone, Debug, Default)]
pub struct TrajectoryFilter {
    pub tenant: Option<String>,
    pub app: Option<String>,
    pub label: Option<Label>,
    pub cluster: Option<ClusterId>,
    pub session: Option<String>,
    /// Only those that started before.
    pub before: Option<Micros>,
    pub limit: Option<u32>,
}

/// The columns that [`trajectory_of`] reads, in its order.
pub(super) const COLUMNS: &str = "id, tenant, app, user, session_id, link, link_confidence, started, ended, exchanges, \
     model, task, assessed, p_success, label, failing_step, failing_reason, cluster_id";

const SELECT: &str = "SELECT id, tenant, app, user, session_id, link, link_confidence, started, ended, exchanges, \
     model, task, assessed, p_success, label, failing_step, failing_reason, cluster_id \
     FROM trajectory \
     WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR app = ?2) AND (?3 IS NULL OR label = ?3) \
       AND (?4 IS NULL OR cluster_id = ?4) AND (?5 IS NULL OR session_id = ?5) AND (?6 IS NULL OR started < ?6) \
     ORDER BY started DESC, id DESC LIMIT ?7";

pub(super) fn trajectory_of(row: &Row<'_>) -> rusqlite::Result<Trajectory> {
    let assessed: i64 = row.get(12)?;
    let failing = row.get::<_, Option<i64>>(15)?.zip(row.get::<_, Option<String>>(16)?);
    Ok(Trajectory {
        id: row.get::<_, Col<_>>(0)?.0,
        scope: Scope { tenant: row.get(1)?, app: row.get(2)?, user: row.get(3)? },
        session_id: row.get(4)?,
        link: row.get::<_, Named<_>>(5)?.0,
        link_confidence: row.get(6)?,
        started: row.get::<_, Col<_>>(7)?.0,
        ended: row.get::<_, Col<_>>(8)?.0,
        exchanges: row.get(9)?,
        model: row.get(10)?,
        task: row.get(11)?,
        outcome: (assessed > 0)
            .then(|| {
                Ok::<_, rusqlite::Error>(Outcome {
                    p_success: row.get(13)?,
                    label: row.get::<_, Named<_>>(14)?.0,
                    failing_step: failing
                        .map(|(step, reason)| FailingStep { step: step.max(0) as usize, reason }),
                })
            })
            .transpose()?,
        cluster_id: row.get::<_, Option<Col<_>>>(17)?.map(|c| c.0),
    })
}

impl Store {
    /// Trajectories that pass the filter, newest first.
    pub fn trajectories(&self, filter: &TrajectoryFilter) -> Result<Vec<Trajectory>, StoreError> {
        self.read("list trajectories", |db| {
            db.prepare_cached(SELECT)?
                .query_map(
                    params![
                        filter.tenant,
                        filter.app,
                        filter.label.map(Label::as_str),
                        filter.cluster.map(Col),
                        filter.session,
                        filter.before.map(Col),
                        filter.limit.map_or(-1, i64::from),
                    ],
                    trajectory_of,
                )?
                .collect()
        })
    }

    /// One trajectory, or none where there is no such id.
    pub fn trajectory(&self, id: TrajectoryId) -> Result<Option<Trajectory>, StoreError> {
        self.read("read a trajectory", |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM trajectory WHERE id = ?1"))?
                .query_row([Col(id)], trajectory_of)
                .optional()
        })
    }

    /// The scopes that have trajectories, without users.
    pub fn scopes(&self) -> Result<Vec<Scope>, StoreError> {
        const SQL: &str = "SELECT DISTINCT tenant, app FROM trajectory ORDER BY tenant, app";
        self.read("list scopes", |db| {
            db.prepare_cached(SQL)?
                .query_map([], |r| Ok(Scope { tenant: r.get(0)?, app: r.get(1)?, user: String::new() }))?
                .collect()
        })
    }
}
