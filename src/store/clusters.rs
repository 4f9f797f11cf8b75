use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::columns::{Col, Json, Named, vector_from_bytes, vector_to_bytes};
use super::{Store, StoreError};
use crate::model::{Cluster, ClusterId, Scope, TrajectoryId};

macro_rules! columns {
    () => {
        "id, tenant, app, title, signature, state, size, exemplars, centroid, radius, born, last_seen"
    };
}

fn cluster_of(row: &Row<'_>) -> rusqlite::Result<Cluster> {
    Ok(Cluster {
        id: row.get::<_, Col<_>>(0)?.0,
        scope: Scope { tenant: row.get(1)?, app: row.get(2)?, user: String::new() },
        title: row.get(3)?,
        signature: row.get::<_, Json<_>>(4)?.0,
        state: row.get::<_, Named<_>>(5)?.0,
        size: row.get(6)?,
        exemplars: row.get::<_, Json<_>>(7)?.0,
        centroid: vector_from_bytes(row.get_ref(8)?.as_blob()?),
        radius: row.get(9)?,
        born: row.get::<_, Col<_>>(10)?.0,
        last_seen: row.get::<_, Col<_>>(11)?.0,
    })
}

impl Store {
    /// The clusters of a scope (its user does not matter), largest first.
    pub fn clusters(&self, scope: &Scope) -> Result<Vec<Cluster>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM cluster WHERE tenant = ?1 AND app = ?2 ORDER BY size DESC, id"
        );
        self.read("list clusters", |db| {
            db.prepare_cached(SQL)?.query_map([&scope.tenant, &scope.app], cluster_of)?.collect()
        })
    }

    /// One cluster, or none where there is no such id.
    pub fn cluster(&self, id: ClusterId) -> Result<Option<Cluster>, StoreError> {
        const SQL: &str = concat!("SELECT ", columns!(), " FROM cluster WHERE id = ?1");
        self.read("read a cluster", |db| db.prepare_cached(SQL)?.query_row([Col(id)], cluster_of).optional())
    }

    /// The feature space that each centroid of a scope is of. Centroids of different spaces do not compare.
    pub fn cluster_spaces(&self, scope: &Scope) -> Result<HashMap<ClusterId, String>, StoreError> {
        const SQL: &str = "SELECT id, features FROM cluster WHERE tenant = ?1 AND app = ?2";
        self.read("list feature spaces", |db| {
            db.prepare_cached(SQL)?
                .query_map([&scope.tenant, &scope.app], |r| Ok((r.get::<_, Col<_>>(0)?.0, r.get(1)?)))?
                .collect()
        })
    }
}

/// Keeps clusters as they are now and who belongs to which: failures that are not named lose theirs.
pub(super) fn keep(
    tx: &Transaction<'_>,
    scope: &Scope,
    space: &str,
    clusters: &[Cluster],
    members: &[(TrajectoryId, ClusterId)],
) -> rusqlite::Result<()> {
    const KEEP: &str = "INSERT INTO cluster (id, tenant, app, title, signature, state, size, exemplars, centroid, \
         radius, features, born, last_seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
         ON CONFLICT (id) DO UPDATE SET title = ?4, signature = ?5, state = ?6, size = ?7, exemplars = ?8, \
         centroid = ?9, radius = ?10, features = ?11, last_seen = ?13";
    for c in clusters {
        tx.prepare_cached(KEEP)?.execute(params![
            Col(c.id),
            scope.tenant,
            scope.app,
            c.title,
            Json(&c.signature),
            c.state.as_str(),
            c.size,
            Json(&c.exemplars),
            vector_to_bytes(&c.centroid),
            c.radius,
            space,
            Col(c.born),
            Col(c.last_seen),
        ])?;
    }
    tx.execute(
        "UPDATE trajectory SET cluster_id = NULL WHERE tenant = ?1 AND app = ?2 AND cluster_id IS NOT NULL",
        [&scope.tenant, &scope.app],
    )?;
    for (trajectory, cluster) in members {
        tx.prepare_cached("UPDATE trajectory SET cluster_id = ?2 WHERE id = ?1")?
            .execute(params![Col(*trajectory), Col(*cluster)])?;
    }
    Ok(())
}
