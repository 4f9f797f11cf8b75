use super::{Store, StoreError};

/// How much there is of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub trajectories: u64,
    pub success: u64,
    pub failure: u64,
    pub partial: u64,
    pub unknown: u64,
    pub clusters_open: u64,
    pub clusters_closed: u64,
    pub nights_done: u64,
    pub nights_failed: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl Store {
    /// Counts over all scopes.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        const SQL: &str = "SELECT \
             (SELECT count(*) FROM trajectory), \
             (SELECT count(*) FROM trajectory WHERE label = 'success'), \
             (SELECT count(*) FROM trajectory WHERE label = 'failure'), \
             (SELECT count(*) FROM trajectory WHERE label = 'partial'), \
             (SELECT count(*) FROM trajectory WHERE label = 'unknown'), \
             (SELECT count(*) FROM cluster WHERE state IN ('open', 'reopened')), \
             (SELECT count(*) FROM cluster WHERE state NOT IN ('open', 'reopened')), \
             (SELECT count(*) FROM night WHERE phase = 'done'), \
             (SELECT count(*) FROM night WHERE phase = 'failed'), \
             (SELECT coalesce(sum(input_tokens), 0) FROM turn), \
             (SELECT coalesce(sum(output_tokens), 0) FROM turn)";
        self.read("count", |db| {
            db.prepare_cached(SQL)?.query_row([], |r| {
                let n = |at: usize| Ok::<_, rusqlite::Error>(r.get::<_, i64>(at)?.max(0) as u64);
                Ok(Counts {
                    trajectories: n(0)?,
                    success: n(1)?,
                    failure: n(2)?,
                    partial: n(3)?,
                    unknown: n(4)?,
                    clusters_open: n(5)?,
                    clusters_closed: n(6)?,
                    nights_done: n(7)?,
                    nights_failed: n(8)?,
                    input_tokens: n(9)?,
                    output_tokens: n(10)?,
                })
            })
        })
    }
}
