use rusqlite::{OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use super::columns::{Col, Json, Named};
use super::{Store, StoreError, clusters, lessons};
use crate::model::{
    Cluster, ClusterId, Label, Lesson, Micros, Night, NightId, NightPhase, NightReport, Scope, TrajectoryId,
};

/// What came of asking for a night.
#[derive(Clone, Debug)]
pub enum Begun {
    New(Night),
    /// One that was killed, with the phase it had reached.
    Resumed(Night),
    /// Another process is at it.
    Running {
        night: NightId,
        since: Micros,
        until: Micros,
    },
}

macro_rules! columns {
    () => {
        "id, tenant, app, started, ended, phase, watermark, report, commit_id, error"
    };
}

fn night_of(row: &Row<'_>) -> rusqlite::Result<Night> {
    Ok(Night {
        id: row.get::<_, Col<_>>(0)?.0,
        scope: Scope { tenant: row.get(1)?, app: row.get(2)?, user: String::new() },
        started: row.get::<_, Col<_>>(3)?.0,
        ended: row.get::<_, Option<Col<_>>>(4)?.map(|c| c.0),
        phase: row.get::<_, Named<_>>(5)?.0,
        watermark: row.get(6)?,
        report: row.get::<_, Json<_>>(7)?.0,
        commit: row.get(8)?,
        error: row.get(9)?,
    })
}

impl Store {
    /// Nights of all scopes, newest first.
    pub fn nights(&self, limit: u32) -> Result<Vec<Night>, StoreError> {
        const SQL: &str =
            concat!("SELECT ", columns!(), " FROM night ORDER BY started DESC, id DESC LIMIT ?1");
        self.read("list nights", |db| db.prepare_cached(SQL)?.query_map([limit], night_of)?.collect())
    }

    /// One night, or none where there is no such id.
    pub fn night(&self, id: NightId) -> Result<Option<Night>, StoreError> {
        const SQL: &str = concat!("SELECT ", columns!(), " FROM night WHERE id = ?1");
        self.read("read a night", |db| db.prepare_cached(SQL)?.query_row([Col(id)], night_of).optional())
    }

    /// Begins a night of a scope, or takes up the one that was left unfinished and whose lease ran out before `now`.
    pub fn begin_night(
        &self,
        scope: &Scope,
        fresh: NightId,
        now: Micros,
        lease: Micros,
    ) -> Result<Begun, StoreError> {
        const OPEN: &str = concat!(
            "SELECT ",
            columns!(),
            ", lease FROM night WHERE tenant = ?1 AND app = ?2 AND phase NOT IN ('done', 'failed') ORDER BY started"
        );
        const BEGIN: &str = "INSERT INTO night (id, tenant, app, started, phase, watermark, report, lease) \
             VALUES (?1, ?2, ?3, ?4, 'select', 0, ?5, ?6)";
        self.write("begin a night", |tx| {
            let open = tx
                .query_row(OPEN, [&scope.tenant, &scope.app], |r| {
                    Ok((night_of(r)?, r.get::<_, Col<Micros>>(10)?.0))
                })
                .optional()?;
            if let Some((night, until)) = open {
                if until > now {
                    return Ok(Begun::Running { night: night.id, since: night.started, until });
                }
                tx.execute("UPDATE night SET lease = ?2 WHERE id = ?1", params![Col(night.id), Col(lease)])?;
                return Ok(Begun::Resumed(night));
            }
            let report = NightReport::default();
            tx.execute(
                BEGIN,
                params![Col(fresh), scope.tenant, scope.app, Col(now), Json(&report), Col(lease)],
            )?;
            let night = Night {
                id: fresh,
                scope: scope.of_app(),
                started: now,
                ended: None,
                phase: NightPhase::Select,
                watermark: 0,
                report,
                commit: None,
                error: None,
            };
            Ok(Begun::New(night))
        })
    }

    /// Says that the night's process is alive until `lease`.
    pub fn extend_night(&self, night: NightId, lease: Micros) -> Result<(), StoreError> {
        self.write("extend a night's lease", |tx| {
            tx.execute("UPDATE night SET lease = ?2 WHERE id = ?1", params![Col(night), Col(lease)]).map(drop)
        })
    }

    /// Keeps a night as it is now. A night that ended gives its lease back.
    pub fn keep_night(&self, night: &Night) -> Result<(), StoreError> {
        self.write("keep a night", |tx| keep(tx, night))
    }

    /// Keeps a night's clusters together with the night: all of it or nothing.
    pub fn keep_clusters(
        &self,
        night: &Night,
        material: &str,
        space: &str,
        found: &[Cluster],
        members: &[(TrajectoryId, ClusterId)],
    ) -> Result<(), StoreError> {
        self.write("keep clusters", |tx| {
            clusters::keep(tx, &night.scope, space, found, members)?;
            tx.execute("UPDATE night SET material = ?2 WHERE id = ?1", params![Col(night.id), material])?;
            keep(tx, night)
        })
    }

    /// Keeps a night's lessons, with whether each passed the gate, together with the night.
    pub fn keep_lessons(&self, night: &Night, drafted: &[(Lesson, bool)]) -> Result<(), StoreError> {
        self.write("keep lessons", |tx| {
            lessons::keep(tx, drafted, night.started)?;
            keep(tx, night)
        })
    }

    /// The fingerprint that the last finished night of a scope read.
    pub fn last_material(&self, scope: &Scope) -> Result<Option<String>, StoreError> {
        const SQL: &str = "SELECT material FROM night WHERE tenant = ?1 AND app = ?2 AND phase = 'done' \
             AND material <> '' ORDER BY started DESC, id DESC LIMIT 1";
        self.read("read the last night", |db| {
            db.prepare_cached(SQL)?.query_row([&scope.tenant, &scope.app], |r| r.get(0)).optional()
        })
    }

    /// A fingerprint of all outcomes of a scope, and the sequence number of the latest exchange in them.
    pub fn material(&self, scope: &Scope) -> Result<(String, i64), StoreError> {
        const SQL: &str = "SELECT id, assessed, label, COALESCE(failing_step, -1), last_seq FROM trajectory \
             WHERE tenant = ?1 AND app = ?2 AND assessed > 0 ORDER BY id";
        self.read("fingerprint outcomes", |db| {
            let (mut hash, mut watermark) = (Sha256::new(), 0);
            let mut query = db.prepare_cached(SQL)?;
            let mut rows = query.query([&scope.tenant, &scope.app])?;
            while let Some(r) = rows.next()? {
                hash.update(r.get::<_, Col<TrajectoryId>>(0)?.0.as_bytes());
                hash.update(r.get::<_, i64>(1)?.to_le_bytes());
                hash.update(r.get::<_, Named<Label>>(2)?.0.as_str());
                hash.update(r.get::<_, i64>(3)?.to_le_bytes());
                watermark = watermark.max(r.get(4)?);
            }
            Ok((hex::encode(&hash.finalize()[..16]), watermark))
        })
    }
}

fn keep(tx: &rusqlite::Transaction<'_>, night: &Night) -> rusqlite::Result<()> {
    const KEEP: &str = "UPDATE night SET ended = ?2, phase = ?3, watermark = ?4, report = ?5, commit_id = ?6, \
         error = ?7, lease = CASE WHEN ?2 IS NULL THEN lease ELSE 0 END WHERE id = ?1";
    tx.prepare_cached(KEEP)?.execute(params![
        Col(night.id),
        night.ended.map(Col),
        night.phase.as_str(),
        night.watermark,
        Json(&night.report),
        night.commit,
        night.error,
    ])?;
    Ok(())
}
