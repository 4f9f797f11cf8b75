//! Read-only queries that show what was learned: for pages and reports, never for the night's own work.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row, params};

use super::columns::{Col, Json, Named};
use super::{Store, StoreError};
use crate::model::{Cluster, ClusterId, Lesson, LessonId, Micros, Night, NightId, Scope};

/// Microseconds of a day in UTC.
const DAY: i64 = 86_400_000_000;

/// How much there is, in one scope or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    pub trajectories: u64,
    pub successes: u64,
    pub failures: u64,
    pub partial: u64,
    pub unknown: u64,
    /// Failures in no cluster.
    pub unclustered: u64,
    /// Exchanges recorded; of one scope, those that are part of a trajectory.
    pub exchanges: u64,
}

/// A failure cluster with the numbers that stand beside it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ClusterView {
    #[serde(flatten)]
    pub cluster: Cluster,
    /// Trajectories in it now.
    pub members: u64,
    /// Those of the members that are labelled failures.
    pub failures: u64,
    /// Failures of its tenant and app, clustered or not.
    pub scope_failures: u64,
    /// When its oldest member started; none when it has no members.
    pub first_seen: Option<Micros>,
    /// Lessons that answer it and are not retired.
    pub lessons: u64,
    /// Members by day since 1970 in UTC, oldest first, days without left out.
    pub by_day: Vec<(i64, u64)>,
}

/// Which clusters are wanted: open ones first, then by size. The default is none, for want of a limit.
#[derive(Clone, Debug, Default)]
pub struct ClusterFilter {
    /// Tenant and app; the user is not looked at.
    pub scope: Option<Scope>,
    pub id: Option<ClusterId>,
    /// Members are counted by day from here on.
    pub by_day_since: Micros,
    pub offset: u32,
    pub limit: u32,
}

/// Which nights are wanted, newest first.
#[derive(Clone, Debug, Default)]
pub struct NightFilter {
    pub scope: Option<Scope>,
    /// Only those that started before.
    pub before: Option<Micros>,
    pub limit: u32,
}

/// Which lessons are wanted.
#[derive(Clone, Copy, Debug)]
pub enum LessonsOf {
    Cluster(ClusterId),
    Night(NightId),
}

impl Store {
    /// Counts of trajectories by label, of unclustered failures and of exchanges.
    pub fn view_totals(&self, scope: Option<&Scope>) -> Result<Totals, StoreError> {
        const COUNTS: &str = "SELECT count(*), sum(label = 'success'), sum(label = 'failure'), sum(label = 'partial'), \
                sum(label = 'unknown'), sum(label = 'failure' AND cluster_id IS NULL), sum(exchanges) \
             FROM trajectory WHERE (?1 IS NULL OR (tenant = ?1 AND app = ?2))";
        let (tenant, app) = columns_of(scope);
        self.read("count trajectories", |db| {
            let mut totals = db.prepare_cached(COUNTS)?.query_row(params![tenant, app], |r| {
                let count =
                    |i| Ok::<_, rusqlite::Error>(r.get::<_, Option<i64>>(i)?.unwrap_or(0).max(0) as u64);
                Ok(Totals {
                    trajectories: count(0)?,
                    successes: count(1)?,
                    failures: count(2)?,
                    partial: count(3)?,
                    unknown: count(4)?,
                    unclustered: count(5)?,
                    exchanges: count(6)?,
                })
            })?;
            if scope.is_none() {
                // The covering index on `started` keeps this from reading the rows.
                totals.exchanges = db
                    .prepare_cached("SELECT count(*) FROM record.exchange")?
                    .query_row([], |r| r.get::<_, i64>(0))?
                    .max(0) as u64;
            }
            Ok(totals)
        })
    }

    /// Clusters with their numbers.
    pub fn view_clusters(&self, filter: &ClusterFilter) -> Result<Vec<ClusterView>, StoreError> {
        const SQL: &str = "SELECT c.id, c.tenant, c.app, c.title, c.signature, c.state, c.size, c.exemplars, c.radius, \
                c.born, c.last_seen, coalesce(m.members, 0), coalesce(m.failures, 0), \
                coalesce(f.failures, 0), m.first, \
                (SELECT count(*) FROM lesson l WHERE l.cluster_id = c.id AND l.state <> 'retired') \
             FROM cluster c LEFT JOIN (SELECT cluster_id, count(*) AS members, sum(label = 'failure') AS failures, \
                    min(started) AS first FROM trajectory WHERE cluster_id IS NOT NULL GROUP BY cluster_id) m \
                ON m.cluster_id = c.id \
             LEFT JOIN (SELECT tenant, app, count(*) AS failures FROM trajectory WHERE label = 'failure' \
                    GROUP BY tenant, app) f ON f.tenant = c.tenant AND f.app = c.app \
             WHERE (?1 IS NULL OR (c.tenant = ?1 AND c.app = ?2)) AND (?3 IS NULL OR c.id = ?3) \
             ORDER BY c.state IN ('open', 'reopened') DESC, coalesce(m.members, c.size) DESC, c.last_seen DESC, c.id \
             LIMIT ?4 OFFSET ?5";
        let (tenant, app) = columns_of(filter.scope.as_ref());
        self.read("list clusters", |db| {
            let mut clusters: Vec<ClusterView> = db
                .prepare_cached(SQL)?
                .query_map(params![tenant, app, filter.id.map(Col), filter.limit, filter.offset], cluster_of)?
                .collect::<rusqlite::Result<_>>()?;
            for view in &mut clusters {
                view.by_day = by_day(db, view.cluster.id, filter.by_day_since)?;
            }
            Ok(clusters)
        })
    }

    /// The titles of clusters by id; ids that no longer exist are left out.
    pub fn view_cluster_titles(&self, ids: &[ClusterId]) -> Result<HashMap<ClusterId, String>, StoreError> {
        self.read("read cluster titles", |db| {
            let mut query = db.prepare_cached("SELECT title FROM cluster WHERE id = ?1")?;
            let mut titles = HashMap::new();
            for id in ids {
                if let Some(title) = query.query_row([Col(*id)], |r| r.get(0)).optional()? {
                    titles.insert(*id, title);
                }
            }
            Ok(titles)
        })
    }

    /// Lessons of a cluster or of a night: those in use first.
    pub fn view_lessons(&self, of: LessonsOf) -> Result<Vec<Lesson>, StoreError> {
        const SQL: &str = "SELECT id, tenant, app, kind, state, text, file, cluster_id, evidence, support, night_id \
             FROM lesson WHERE (?1 IS NULL OR cluster_id = ?1) AND (?2 IS NULL OR night_id = ?2) \
             ORDER BY CASE state WHEN 'active' THEN 0 WHEN 'watch' THEN 1 ELSE 2 END, file, id";
        let (cluster, night) = match of {
            LessonsOf::Cluster(id) => (Some(Col(id)), None),
            LessonsOf::Night(id) => (None, Some(Col(id))),
        };
        self.read("list lessons", |db| {
            db.prepare_cached(SQL)?.query_map(params![cluster, night], lesson_of)?.collect()
        })
    }

    /// Nights, newest first.
    pub fn view_nights(&self, filter: &NightFilter) -> Result<Vec<Night>, StoreError> {
        const SQL: &str = "SELECT id, tenant, app, started, ended, phase, watermark, report, commit_id, error FROM night \
             WHERE (?1 IS NULL OR (tenant = ?1 AND app = ?2)) AND (?3 IS NULL OR started < ?3) \
             ORDER BY started DESC, id DESC LIMIT ?4";
        let (tenant, app) = columns_of(filter.scope.as_ref());
        self.read("list nights", |db| {
            db.prepare_cached(SQL)?
                .query_map(params![tenant, app, filter.before.map(Col), filter.limit], night_of)?
                .collect()
        })
    }

    /// One night, or none where there is no such id.
    pub fn view_night(&self, id: NightId) -> Result<Option<Night>, StoreError> {
        const SQL: &str = "SELECT id, tenant, app, started, ended, phase, watermark, report, commit_id, error FROM night \
             WHERE id = ?1";
        self.read("read a night", |db| db.prepare_cached(SQL)?.query_row([Col(id)], night_of).optional())
    }
}

fn columns_of(scope: Option<&Scope>) -> (Option<&str>, Option<&str>) {
    (scope.map(|s| s.tenant.as_str()), scope.map(|s| s.app.as_str()))
}

fn by_day(db: &rusqlite::Connection, id: ClusterId, since: Micros) -> rusqlite::Result<Vec<(i64, u64)>> {
    const SQL: &str = "SELECT started / ?3, count(*) FROM trajectory WHERE cluster_id = ?1 AND started >= ?2 \
         GROUP BY 1 ORDER BY 1";
    db.prepare_cached(SQL)?
        .query_map(params![Col(id), Col(since), DAY], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?.max(0) as u64)))?
        .collect()
}

fn cluster_of(r: &Row<'_>) -> rusqlite::Result<ClusterView> {
    let count = |i| Ok::<_, rusqlite::Error>(r.get::<_, i64>(i)?.max(0) as u64);
    Ok(ClusterView {
        cluster: Cluster {
            id: r.get::<_, Col<_>>(0)?.0,
            scope: app_scope(r, 1)?,
            title: r.get(3)?,
            signature: r.get::<_, Json<_>>(4)?.0,
            state: r.get::<_, Named<_>>(5)?.0,
            size: r.get(6)?,
            exemplars: r.get::<_, Json<_>>(7)?.0,
            // Pages show no coordinates; leaving them on disk keeps a long list cheap.
            centroid: Vec::new(),
            radius: r.get(8)?,
            born: r.get::<_, Col<_>>(9)?.0,
            last_seen: r.get::<_, Col<_>>(10)?.0,
        },
        members: count(11)?,
        failures: count(12)?,
        scope_failures: count(13)?,
        first_seen: r.get::<_, Option<Col<_>>>(14)?.map(|c| c.0),
        lessons: count(15)?,
        by_day: Vec::new(),
    })
}

fn lesson_of(r: &Row<'_>) -> rusqlite::Result<Lesson> {
    Ok(Lesson {
        id: LessonId::from_stored(r.get(0)?),
        scope: app_scope(r, 1)?,
        kind: r.get::<_, Named<_>>(3)?.0,
        state: r.get::<_, Named<_>>(4)?.0,
        text: r.get(5)?,
        file: r.get(6)?,
        cluster: r.get::<_, Option<Col<_>>>(7)?.map(|c| c.0),
        evidence: r.get::<_, Json<_>>(8)?.0,
        support: r.get(9)?,
        night: r.get::<_, Col<_>>(10)?.0,
    })
}

fn night_of(r: &Row<'_>) -> rusqlite::Result<Night> {
    Ok(Night {
        id: r.get::<_, Col<_>>(0)?.0,
        scope: app_scope(r, 1)?,
        started: r.get::<_, Col<_>>(3)?.0,
        ended: r.get::<_, Option<Col<_>>>(4)?.map(|c| c.0),
        phase: r.get::<_, Named<_>>(5)?.0,
        watermark: r.get(6)?,
        report: r.get::<_, Json<_>>(7)?.0,
        commit: r.get(8)?,
        error: r.get(9)?,
    })
}

fn app_scope(r: &Row<'_>, first: usize) -> rusqlite::Result<Scope> {
    Ok(Scope { tenant: r.get(first)?, app: r.get(first + 1)?, user: String::new() })
}
