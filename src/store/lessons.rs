use std::collections::HashSet;

use rusqlite::{Row, Transaction, params};

use super::columns::{Col, Json, Named};
use super::{Store, StoreError};
use crate::model::{ClusterId, Lesson, LessonId, LessonState, Micros, Scope};

macro_rules! columns {
    () => {
        "id, tenant, app, kind, state, text, file, cluster_id, evidence, support, night_id"
    };
}

fn lesson_of(row: &Row<'_>) -> rusqlite::Result<Lesson> {
    Ok(Lesson {
        id: LessonId::from_stored(row.get(0)?),
        scope: Scope { tenant: row.get(1)?, app: row.get(2)?, user: String::new() },
        kind: row.get::<_, Named<_>>(3)?.0,
        state: row.get::<_, Named<_>>(4)?.0,
        text: row.get(5)?,
        file: row.get(6)?,
        cluster: row.get::<_, Option<Col<_>>>(7)?.map(|c| c.0),
        evidence: row.get::<_, Json<_>>(8)?.0,
        support: row.get(9)?,
        night: row.get::<_, Col<_>>(10)?.0,
    })
}

impl Store {
    /// All lessons of a scope (its user does not matter), retired ones too, by file.
    pub fn lessons(&self, scope: &Scope) -> Result<Vec<Lesson>, StoreError> {
        const SQL: &str =
            concat!("SELECT ", columns!(), " FROM lesson WHERE tenant = ?1 AND app = ?2 ORDER BY file, id");
        self.read("list lessons", |db| {
            db.prepare_cached(SQL)?.query_map([&scope.tenant, &scope.app], lesson_of)?.collect()
        })
    }

    /// The lessons that answer a cluster, retired ones too.
    pub fn lessons_of(&self, cluster: ClusterId) -> Result<Vec<Lesson>, StoreError> {
        const SQL: &str = concat!("SELECT ", columns!(), " FROM lesson WHERE cluster_id = ?1 ORDER BY id");
        self.read("list a cluster's lessons", |db| {
            db.prepare_cached(SQL)?.query_map([Col(cluster)], lesson_of)?.collect()
        })
    }

    /// Lessons that the owner changed or took out: nights leave them alone.
    pub fn held_lessons(&self, scope: &Scope) -> Result<HashSet<LessonId>, StoreError> {
        const SQL: &str = "SELECT id FROM lesson WHERE tenant = ?1 AND app = ?2 AND held = 1";
        self.read("list held lessons", |db| {
            db.prepare_cached(SQL)?
                .query_map([&scope.tenant, &scope.app], |r| Ok(LessonId::from_stored(r.get(0)?)))?
                .collect()
        })
    }

    /// Lessons that passed the gate, accepted or not.
    pub fn passed_lessons(&self, scope: &Scope) -> Result<HashSet<LessonId>, StoreError> {
        const SQL: &str = "SELECT id FROM lesson WHERE tenant = ?1 AND app = ?2 AND passed = 1";
        self.read("list lessons that passed", |db| {
            db.prepare_cached(SQL)?
                .query_map([&scope.tenant, &scope.app], |r| Ok(LessonId::from_stored(r.get(0)?)))?
                .collect()
        })
    }

    /// Keeps what the owner did to a lesson: its new text, or none where they took it out.
    pub fn hold_lesson(&self, id: &LessonId, text: Option<&str>, when: Micros) -> Result<(), StoreError> {
        self.write("keep an owner's decision", |tx| {
            match text {
                Some(text) => tx.execute(
                    "UPDATE lesson SET text = ?2, held = 1, updated = ?3 WHERE id = ?1 AND text <> ?2",
                    params![id.as_str(), text, Col(when)],
                ),
                None => tx.execute(
                    "UPDATE lesson SET state = ?2, held = 1, updated = ?3 WHERE id = ?1 AND state <> ?2",
                    params![id.as_str(), LessonState::Retired.as_str(), Col(when)],
                ),
            }?;
            Ok(())
        })
    }

    /// Makes lessons active that the owner accepted, those that were turned down before as well. Returns how many were
    /// not active before.
    pub fn activate_lessons(&self, ids: &[LessonId], when: Micros) -> Result<usize, StoreError> {
        const SQL: &str = "UPDATE lesson SET state = ?2, held = CASE state WHEN ?3 THEN 0 ELSE held END, \
             updated = ?4 WHERE id = ?1 AND state <> ?2";
        self.write("activate lessons", |tx| {
            let (active, retired) = (LessonState::Active.as_str(), LessonState::Retired.as_str());
            let mut changed = 0;
            for id in ids {
                changed +=
                    tx.prepare_cached(SQL)?.execute(params![id.as_str(), active, retired, Col(when)])?;
            }
            Ok(changed)
        })
    }

    /// Takes lessons out because no file has room for them.
    pub fn retire_lessons(&self, ids: &[LessonId], when: Micros) -> Result<(), StoreError> {
        self.write("retire lessons", |tx| {
            for id in ids {
                tx.prepare_cached("UPDATE lesson SET state = ?2, updated = ?3 WHERE id = ?1")?
                    .execute(params![id.as_str(), LessonState::Retired.as_str(), Col(when)])?;
            }
            Ok(())
        })
    }
}

/// Adds lessons or brings them up to date; (lesson, whether it passed the gate).
pub(super) fn keep(tx: &Transaction<'_>, lessons: &[(Lesson, bool)], when: Micros) -> rusqlite::Result<()> {
    const KEEP: &str = "INSERT INTO lesson (id, tenant, app, kind, state, text, file, cluster_id, evidence, support, \
         night_id, updated, passed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
         ON CONFLICT (id) DO UPDATE SET state = ?5, file = ?7, cluster_id = ?8, evidence = ?9, support = ?10, \
         updated = ?12, passed = ?13 WHERE held = 0";
    for (l, passed) in lessons {
        tx.prepare_cached(KEEP)?.execute(params![
            l.id.as_str(),
            l.scope.tenant,
            l.scope.app,
            l.kind.as_str(),
            l.state.as_str(),
            l.text,
            l.file,
            l.cluster.map(Col),
            Json(&l.evidence),
            l.support,
            Col(l.night),
            Col(when),
            passed,
        ])?;
    }
    Ok(())
}
