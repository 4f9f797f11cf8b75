use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::columns::{Col, Named};
use super::{Store, StoreError};
use crate::model::{Api, Ended, ExchangeId, Link, Micros, Scope, Step, TrajectoryId, Usage};

/// Hash of a conversation up to some message.
pub type Chain = [u8; 16];

/// What was read from one exchange, ready to be placed.
#[derive(Clone, Debug)]
pub struct NewTurn {
    pub seq: i64,
    pub exchange: ExchangeId,
    pub scope: Scope,
    pub started: Micros,
    pub ended: Micros,
    pub api: Api,
    pub model: Option<String>,
    pub response_model: Option<String>,
    pub response_id: Option<String>,
    pub stream: bool,
    pub finish_reason: Option<String>,
    pub error: Option<String>,
    pub usage: Usage,
    /// Length of the conversation that was sent, system messages included.
    pub messages: u32,
    pub partition: String,
    pub connection: i64,
    pub system_hash: Option<Chain>,
    pub request_chain: Option<Chain>,
    pub reply_chain: Option<Chain>,
    /// Tool calls of the answer, by id.
    pub call_ids: Vec<String>,
    /// The first user message, shortened.
    pub task: String,
}

/// Where a turn belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub trajectory: TrajectoryId,
    pub parent: Option<i64>,
    pub link: Link,
    pub confidence: f64,
}

/// A stored turn that a new one may continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub seq: i64,
    pub trajectory: TrajectoryId,
}

/// A turn as it is kept, with how its exchange went.
#[derive(Clone, Debug)]
pub struct Turn {
    pub seq: i64,
    pub parent: Option<i64>,
    pub api: Api,
    /// Length of the conversation that was sent.
    pub messages: u32,
    pub answered: bool,
    pub step: Step,
}

/// A transaction that places turns. Queries see what was placed before in it.
#[derive(Debug)]
pub struct Placing<'a>(&'a Transaction<'a>);

const ASSEMBLED: &str = "assembled";

impl Store {
    /// The sequence number up to which exchanges are assembled.
    pub fn assembled(&self) -> Result<i64, StoreError> {
        self.read("read a watermark", |db| {
            db.query_row("SELECT seq FROM watermark WHERE name = ?1", [ASSEMBLED], |r| r.get(0)).optional()
        })
        .map(Option::unwrap_or_default)
    }

    /// Places turns and moves the watermark from `from` to `to`, in one transaction. Does nothing and returns false
    /// when the watermark is no longer `from`: another process was faster.
    pub fn place_turns(
        &self,
        from: i64,
        to: i64,
        place: impl FnOnce(&Placing<'_>) -> rusqlite::Result<()>,
    ) -> Result<bool, StoreError> {
        const MOVE: &str = "INSERT INTO watermark (name, seq) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET seq = excluded.seq";
        self.write("assemble trajectories", |tx| {
            let at: Option<i64> = tx
                .query_row("SELECT seq FROM watermark WHERE name = ?1", [ASSEMBLED], |r| r.get(0))
                .optional()?;
            if at.unwrap_or_default() != from {
                return Ok(false);
            }
            place(&Placing(tx))?;
            tx.execute(MOVE, params![ASSEMBLED, to])?;
            Ok(true)
        })
    }

    /// The turns of a trajectory in order of recording.
    pub fn turns(&self, trajectory: TrajectoryId) -> Result<Vec<Turn>, StoreError> {
        const SQL: &str = "SELECT t.seq, t.parent_seq, t.api, t.messages, t.reply_chain IS NOT NULL, t.exchange_id, \
                 t.response_id, e.status, e.ended, t.finish_reason, coalesce(t.response_model, t.model), \
                 t.input_tokens, t.output_tokens, t.cached_input_tokens, t.reasoning_tokens, e.started, \
                 e.first_byte, e.finished \
             FROM turn t LEFT JOIN record.exchange e ON e.seq = t.seq WHERE t.trajectory_id = ?1 ORDER BY t.seq";
        self.read("read the turns of a trajectory", |db| {
            db.prepare_cached(SQL)?.query_map([Col(trajectory)], turn_of)?.collect()
        })
    }

    /// The upstream's response ids in a trajectory, in order of recording.
    pub fn response_ids(&self, trajectory: TrajectoryId) -> Result<Vec<String>, StoreError> {
        const SQL: &str = "SELECT response_id FROM turn \
             WHERE trajectory_id = ?1 AND response_id IS NOT NULL ORDER BY seq";
        self.read("list response ids", |db| {
            db.prepare_cached(SQL)?.query_map([Col(trajectory)], |r| r.get(0))?.collect()
        })
    }
}

/// When an id was made (RFC 9562, section 5.7): its first 48 bits are milliseconds.
fn made(id: ExchangeId) -> Micros {
    let millis = id.as_bytes()[..6].iter().fold(0, |sum, byte| sum << 8 | i64::from(*byte));
    Micros(millis * 1000)
}

fn turn_of(r: &Row<'_>) -> rusqlite::Result<Turn> {
    let exchange: ExchangeId = r.get::<_, Col<_>>(5)?.0;
    // Retention drops exchanges; of the turn remains what was read from it, and the time that is in the id.
    let started = r.get::<_, Option<Col<_>>>(15)?.map_or_else(|| made(exchange), |c: Col<Micros>| c.0);
    let ended = match r.get::<_, Option<Named<Ended>>>(8)? {
        Some(ended) => ended.0,
        None if r.get(4)? => Ended::Complete,
        None => Ended::Interrupted,
    };
    let count = |at: usize| Ok::<_, rusqlite::Error>(r.get::<_, Option<i64>>(at)?.map(|n| n.max(0) as u64));
    let usage = Usage {
        input_tokens: count(11)?,
        output_tokens: count(12)?,
        cached_input_tokens: count(13)?,
        reasoning_tokens: count(14)?,
    };
    Ok(Turn {
        seq: r.get(0)?,
        parent: r.get(1)?,
        api: r.get::<_, Named<_>>(2)?.0,
        messages: r.get(3)?,
        answered: r.get(4)?,
        step: Step {
            exchange,
            response_id: r.get(6)?,
            message: None,
            status: r.get(7)?,
            ended,
            finish_reason: r.get(9)?,
            model: r.get(10)?,
            usage: (usage != Usage::default()).then_some(usage),
            started,
            duration: r.get::<_, Option<Col<Micros>>>(17)?.map_or(Duration::ZERO, |c| started.until(c.0)),
            time_to_first_byte: r.get::<_, Option<Col<Micros>>>(16)?.map(|c: Col<Micros>| started.until(c.0)),
        },
    })
}

/// An unanswered request sent again within this time is a retry.
const RETRY_WITHIN: Duration = Duration::from_secs(600);

impl Placing<'_> {
    fn anchor(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Option<Anchor>> {
        self.0
            .prepare_cached(sql)?
            .query_row(params, |r| Ok(Anchor { seq: r.get(0)?, trajectory: r.get::<_, Col<_>>(1)?.0 }))
            .optional()
    }

    /// The answered turn that ends in `chain`. Equal conversations are normal (trials of one task): first those that
    /// nothing continues yet, then the same connection, the same system messages, the latest.
    /// With `within`, only turns of that trajectory.
    pub fn answered(
        &self,
        chain: &Chain,
        turn: &NewTurn,
        within: Option<TrajectoryId>,
    ) -> rusqlite::Result<Option<Anchor>> {
        const SQL: &str = "SELECT seq, trajectory_id FROM turn \
             WHERE reply_chain = ?1 AND partition = ?2 AND trajectory_id IS NOT NULL \
               AND (?5 IS NULL OR trajectory_id = ?5) \
             ORDER BY continued > 0, connection <> ?3, system_hash IS NOT ?4, seq DESC LIMIT 1";
        self.anchor(SQL, params![chain, turn.partition, turn.connection, turn.system_hash, within.map(Col)])
    }

    /// The same conversation, sent a short while ago and not answered.
    pub fn unanswered(&self, turn: &NewTurn) -> rusqlite::Result<Option<Anchor>> {
        const SQL: &str = "SELECT t.seq, t.trajectory_id FROM turn t JOIN record.exchange e ON e.seq = t.seq \
             WHERE t.request_chain = ?1 AND t.partition = ?2 AND t.reply_chain IS NULL AND t.trajectory_id IS NOT NULL \
               AND t.system_hash IS ?3 AND e.started >= ?4 AND t.continued = 0 ORDER BY t.seq DESC LIMIT 1";
        let since = turn.started.minus(RETRY_WITHIN);
        self.anchor(SQL, params![turn.request_chain, turn.partition, turn.system_hash, Col(since)])
    }

    /// The turn whose answer has this id.
    pub fn response(&self, response_id: &str, turn: &NewTurn) -> rusqlite::Result<Option<Anchor>> {
        const SQL: &str = "SELECT seq, trajectory_id FROM turn \
             WHERE response_id = ?1 AND partition = ?2 AND trajectory_id IS NOT NULL ORDER BY seq DESC LIMIT 1";
        self.anchor(SQL, params![response_id, turn.partition])
    }

    /// The latest turn that made a tool call with this id.
    pub fn tool_call(&self, call_id: &str, turn: &NewTurn) -> rusqlite::Result<Option<Anchor>> {
        const SQL: &str = "SELECT t.seq, t.trajectory_id FROM tool_call c JOIN turn t ON t.seq = c.seq \
             WHERE c.call_id = ?1 AND c.partition = ?2 AND t.trajectory_id IS NOT NULL ORDER BY c.seq DESC LIMIT 1";
        self.anchor(SQL, params![call_id, turn.partition])
    }

    /// The trajectory of a session that the client named.
    pub fn session(&self, session_id: &str, scope: &Scope) -> rusqlite::Result<Option<TrajectoryId>> {
        const SQL: &str =
            "SELECT id FROM trajectory WHERE tenant = ?1 AND app = ?2 AND session_id = ?3 LIMIT 1";
        self.0
            .prepare_cached(SQL)?
            .query_row([&scope.tenant, &scope.app, session_id], |r| r.get::<_, Col<_>>(0))
            .optional()
            .map(|c| c.map(|c| c.0))
    }

    /// Keeps a turn, and its trajectory where it starts or grows one. `place` none: no model's turn.
    pub fn keep(
        &self,
        turn: &NewTurn,
        place: Option<Place>,
        session_id: Option<&str>,
    ) -> rusqlite::Result<()> {
        const TRAJECTORY: &str = "INSERT INTO trajectory \
                 (id, tenant, app, user, session_id, link, link_confidence, started, ended, exchanges, model, task, last_seq) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, ?10, ?11, ?12) \
             ON CONFLICT (id) DO UPDATE SET \
                 link = CASE WHEN excluded.link <> 'first' AND (trajectory.link = 'first' \
                     OR excluded.link_confidence < trajectory.link_confidence) THEN excluded.link ELSE trajectory.link END, \
                 link_confidence = min(trajectory.link_confidence, excluded.link_confidence), \
                 started = min(trajectory.started, excluded.started), \
                 ended = max(trajectory.ended, excluded.ended), \
                 exchanges = trajectory.exchanges + 1, \
                 model = coalesce(excluded.model, trajectory.model), \
                 task = CASE WHEN trajectory.task = '' THEN excluded.task ELSE trajectory.task END, \
                 last_seq = excluded.last_seq, \
                 revision = trajectory.revision + 1";
        const TURN: &str = "INSERT INTO turn (seq, exchange_id, trajectory_id, parent_seq, link, link_confidence, api, \
                 model, response_model, response_id, stream, finish_reason, error, input_tokens, output_tokens, \
                 cached_input_tokens, reasoning_tokens, messages, partition, connection, system_hash, request_chain, \
                 reply_chain) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, \
                 ?21, ?22, ?23)";
        if let Some(place) = &place {
            self.0.prepare_cached(TRAJECTORY)?.execute(params![
                Col(place.trajectory),
                turn.scope.tenant,
                turn.scope.app,
                turn.scope.user,
                session_id,
                place.link.as_str(),
                place.confidence,
                Col(turn.started),
                Col(turn.ended),
                turn.response_model.as_ref().or(turn.model.as_ref()),
                turn.task,
                turn.seq,
            ])?;
        }
        self.0.prepare_cached(TURN)?.execute(params![
            turn.seq,
            Col(turn.exchange),
            place.map(|p| Col(p.trajectory)),
            place.and_then(|p| p.parent),
            place.map(|p| p.link.as_str()),
            place.map(|p| p.confidence),
            turn.api.as_str(),
            turn.model,
            turn.response_model,
            turn.response_id,
            turn.stream,
            turn.finish_reason,
            turn.error,
            turn.usage.input_tokens.map(|n| n as i64),
            turn.usage.output_tokens.map(|n| n as i64),
            turn.usage.cached_input_tokens.map(|n| n as i64),
            turn.usage.reasoning_tokens.map(|n| n as i64),
            turn.messages,
            turn.partition,
            turn.connection,
            turn.system_hash,
            turn.request_chain,
            turn.reply_chain,
        ])?;
        if let Some(parent) = place.and_then(|p| p.parent) {
            self.0
                .prepare_cached("UPDATE turn SET continued = continued + 1 WHERE seq = ?1")?
                .execute([parent])?;
        }
        const CALL: &str = "INSERT OR IGNORE INTO tool_call (call_id, partition, seq) VALUES (?1, ?2, ?3)";
        for call_id in &turn.call_ids {
            self.0.prepare_cached(CALL)?.execute(params![call_id, turn.partition, turn.seq])?;
        }
        Ok(())
    }
}
