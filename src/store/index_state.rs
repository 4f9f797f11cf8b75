//! What the search index holds, and vectors of trajectories. Both are derived: they may be forgotten at any time.

use rusqlite::params;

use super::columns::{Col, vector_from_bytes, vector_to_bytes};
use super::trajectories::{COLUMNS, trajectory_of};
use super::{Store, StoreError};
use crate::model::{Label, Trajectory, TrajectoryId};

/// A trajectory that changed since it was indexed, or that has no vector of its present content.
#[derive(Clone, Debug)]
pub struct Unindexed {
    pub trajectory: Trajectory,
    /// The revision that the row was read at; to be given back when it is marked.
    pub revision: i64,
    /// Where the next page begins.
    pub last_seq: i64,
    /// The full text is old.
    pub text: bool,
    /// The vector is old or missing.
    pub vector: bool,
}

/// What was done for one trajectory.
#[derive(Clone, Debug)]
pub struct Indexed {
    pub trajectory: TrajectoryId,
    pub revision: i64,
    /// The full text of this revision is in the committed index.
    pub text: bool,
    pub vector: Option<Vec<f32>>,
}

/// Which vectors are wanted; of all scopes and labels by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbeddingFilter<'a> {
    pub tenant: Option<&'a str>,
    pub app: Option<&'a str>,
    pub label: Option<Label>,
}

impl Store {
    /// Trajectories that the index or an embedder has yet to read, in the order of their last exchange, after a given
    /// one (0 for the first page).
    pub fn unindexed(
        &self,
        embedder: &str,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<Unindexed>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, revision, last_seq, indexed < revision, vector_revision IS NOT revision \
             FROM (SELECT t.*, (SELECT e.revision FROM embedding e WHERE e.trajectory_id = t.id AND e.embedder = ?1) \
                   AS vector_revision FROM trajectory t WHERE t.last_seq > ?2) \
             WHERE indexed < revision OR vector_revision IS NOT revision ORDER BY last_seq LIMIT ?3"
        );
        self.read("list trajectories to index", |db| {
            db.prepare_cached(&sql)?
                .query_map(params![embedder, after_seq, limit], |r| {
                    Ok(Unindexed {
                        trajectory: trajectory_of(r)?,
                        revision: r.get("revision")?,
                        last_seq: r.get("last_seq")?,
                        text: r.get(20)?,
                        vector: r.get(21)?,
                    })
                })?
                .collect()
        })
    }

    /// How many trajectories [`Store::unindexed`] has in all.
    pub fn count_unindexed(&self, embedder: &str) -> Result<u64, StoreError> {
        const SQL: &str = "SELECT count(*) FROM trajectory t LEFT JOIN embedding e \
             ON e.trajectory_id = t.id AND e.embedder = ?1 WHERE t.indexed < t.revision OR e.revision IS NOT t.revision";
        self.read("count trajectories to index", |db| {
            db.prepare_cached(SQL)?.query_row([embedder], |r| r.get::<_, i64>(0)).map(|n| n.max(0) as u64)
        })
    }

    /// Notes what the index now holds and keeps vectors, in one transaction. Trajectories that are gone are skipped.
    pub fn mark_indexed(&self, embedder: &str, indexed: &[Indexed]) -> Result<(), StoreError> {
        const TEXT: &str = "UPDATE trajectory SET indexed = max(indexed, ?2) WHERE id = ?1";
        const VECTOR: &str = "INSERT INTO embedding (trajectory_id, embedder, revision, vector) \
             SELECT id, ?2, ?3, ?4 FROM trajectory WHERE id = ?1 \
             ON CONFLICT (trajectory_id, embedder) DO UPDATE SET revision = excluded.revision, vector = excluded.vector";
        self.write("mark trajectories as indexed", |tx| {
            for one in indexed {
                let id = Col(one.trajectory);
                if one.text {
                    tx.prepare_cached(TEXT)?.execute(params![id, one.revision])?;
                }
                if let Some(vector) = &one.vector {
                    let bytes = vector_to_bytes(vector);
                    tx.prepare_cached(VECTOR)?.execute(params![id, embedder, one.revision, bytes])?;
                }
            }
            Ok(())
        })
    }

    /// Forgets what the index holds, so that all is indexed again. Vectors stay: they do not depend on the index.
    pub fn reset_indexed(&self) -> Result<(), StoreError> {
        self.write("reset what is indexed", |tx| {
            tx.execute("UPDATE trajectory SET indexed = 0 WHERE indexed <> 0", []).map(drop)
        })
    }

    /// Calls `each` with every vector of an embedder that passes the filter; at most one is in memory at a time.
    pub fn for_each_embedding(
        &self,
        embedder: &str,
        filter: EmbeddingFilter<'_>,
        mut each: impl FnMut(TrajectoryId, Vec<f32>),
    ) -> Result<(), StoreError> {
        const SQL: &str = "SELECT e.trajectory_id, e.vector FROM embedding e JOIN trajectory t ON t.id = e.trajectory_id \
             WHERE e.embedder = ?1 AND (?2 IS NULL OR t.tenant = ?2) AND (?3 IS NULL OR t.app = ?3) \
               AND (?4 IS NULL OR t.label = ?4)";
        self.read("read embeddings", |db| {
            let mut query = db.prepare_cached(SQL)?;
            let mut rows =
                query.query(params![embedder, filter.tenant, filter.app, filter.label.map(Label::as_str)])?;
            while let Some(row) = rows.next()? {
                each(row.get::<_, Col<_>>(0)?.0, vector_from_bytes(row.get_ref(1)?.as_blob()?));
            }
            Ok(())
        })
    }

    /// The vector of one trajectory, where the embedder has read it; perhaps of an earlier revision.
    pub fn embedding(
        &self,
        embedder: &str,
        trajectory: TrajectoryId,
    ) -> Result<Option<Vec<f32>>, StoreError> {
        const SQL: &str = "SELECT vector FROM embedding WHERE trajectory_id = ?1 AND embedder = ?2";
        self.read("read an embedding", |db| {
            let mut query = db.prepare_cached(SQL)?;
            let mut rows = query.query(params![Col(trajectory), embedder])?;
            Ok(match rows.next()? {
                Some(row) => Some(vector_from_bytes(row.get_ref(0)?.as_blob()?)),
                None => None,
            })
        })
    }
}
