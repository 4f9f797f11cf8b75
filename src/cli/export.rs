use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Common, Outcome, open_store, output};
use crate::model::{
    Choice, ClusterId, Exchange, ExchangeId, Label, Link, Micros, Reading, Scope, TrajectoryId, Usage, Vote,
};
use crate::store::{Store, TrajectoryFilter};
use crate::{outcome, trajectory, wire};

/// Write trajectories or exchanges as JSON lines.
#[derive(Args, Debug)]
pub(super) struct Export {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One JSON object a trajectory: response ids in order, outcome, votes, cluster.
    Trajectories {
        #[command(flatten)]
        common: Common,
    },
    /// One JSON object an exchange: hashes of the bodies as they crossed the wire, and what was read from them.
    Exchanges {
        #[command(flatten)]
        common: Common,
    },
}

impl Export {
    pub fn run(self) -> Outcome {
        match self.what {
            What::Trajectories { common } => {
                let store = open_store(&common.load()?)?;
                trajectory::catch_up(&store)?;
                outcome::assess(&store, Micros::now())?;
                trajectories(&store)
            }
            What::Exchanges { common } => exchanges(&open_store(&common.load()?)?),
        }
    }
}

#[derive(Serialize)]
struct TrajectoryRow {
    trajectory_id: TrajectoryId,
    session_id: Option<String>,
    scope: Scope,
    response_ids: Vec<String>,
    link: Link,
    link_confidence: f64,
    started: String,
    ended: String,
    exchanges: u32,
    model: Option<String>,
    task: String,
    p_success: Option<f64>,
    label: Label,
    votes: Vec<Vote>,
    cluster_id: Option<ClusterId>,
    /// Index into `response_ids`; null where the failing step was not answered.
    failing_step: Option<usize>,
    failing_reason: Option<String>,
}

fn trajectories(store: &Store) -> Outcome {
    let mut all = store.trajectories(&TrajectoryFilter::default())?;
    all.reverse();
    for t in all {
        let outcome = t.outcome.as_ref();
        let failing = outcome.and_then(|o| o.failing_step.as_ref());
        let response_ids = store.response_ids(t.id)?;
        let failing_step = match failing {
            Some(failing) => answered_index(store, t.id, failing.step)?,
            None => None,
        };
        output::json_line(&TrajectoryRow {
            trajectory_id: t.id,
            failing_step,
            failing_reason: failing.map(|f| f.reason.clone()),
            p_success: outcome.and_then(|o| o.p_success),
            label: outcome.map_or(Label::Unknown, |o| o.label),
            votes: store.votes(t.id)?,
            response_ids,
            session_id: t.session_id,
            scope: t.scope,
            link: t.link,
            link_confidence: t.link_confidence,
            started: t.started.to_string(),
            ended: t.ended.to_string(),
            exchanges: t.exchanges,
            model: t.model,
            task: t.task,
            cluster_id: t.cluster_id,
        })?;
    }
    Ok(())
}

/// Steps count every turn; exported positions count those with a response id.
fn answered_index(
    store: &Store,
    id: TrajectoryId,
    step: usize,
) -> Result<Option<usize>, crate::store::StoreError> {
    let turns = store.turns(id)?;
    let answered = turns.get(step).is_some_and(|t| t.step.response_id.is_some());
    Ok(answered.then(|| turns[..step].iter().filter(|t| t.step.response_id.is_some()).count()))
}

#[derive(Serialize)]
struct ExchangeRow {
    exchange_id: ExchangeId,
    scope: Scope,
    started: String,
    duration_ms: f64,
    time_to_first_byte_ms: Option<f64>,
    method: String,
    target: String,
    upstream: String,
    request_sha256: String,
    request_length: u64,
    response_sha256: Option<String>,
    response_length: Option<u64>,
    status: Option<u16>,
    ended: &'static str,
    detail: Option<String>,
    api: &'static str,
    stream: bool,
    model: Option<String>,
    usage: Option<Usage>,
    assembled: Option<Assembled>,
    client_tag: Option<String>,
}

/// The answer in one shape for every API, that of a chat completion.
#[derive(Serialize)]
struct Assembled {
    id: Option<String>,
    model: Option<String>,
    choices: Vec<Choice>,
}

fn exchanges(store: &Store) -> Outcome {
    let mut after = 0;
    while let Some((seq, exchange)) = store.exchange_after(after)? {
        after = seq;
        let reading = wire::read(&exchange);
        output::json_line(&exchange_row(exchange, reading))?;
    }
    Ok(())
}

fn exchange_row(e: Exchange, r: Reading) -> ExchangeRow {
    let answered =
        !r.choices.is_empty() || (r.api.converses() && e.response.as_ref().is_some_and(|r| r.status == 200));
    let ms = |to: Micros| e.timing.started.until(to).as_secs_f64() * 1e3;
    ExchangeRow {
        started: e.timing.started.to_string(),
        duration_ms: ms(e.timing.ended),
        time_to_first_byte_ms: e.timing.first_byte.map(ms),
        request_sha256: hex::encode(e.request_body.sha256),
        request_length: e.request_body.length,
        response_sha256: e.response.as_ref().map(|r| hex::encode(r.body.sha256)),
        response_length: e.response.as_ref().map(|r| r.body.length),
        status: e.response.as_ref().map(|r| r.status),
        client_tag: e.request_headers.get("x-replay-id").map(str::to_owned),
        exchange_id: e.id,
        scope: e.scope,
        method: e.method,
        target: e.target,
        upstream: e.upstream,
        ended: e.ended.as_str(),
        detail: e.detail,
        api: r.api.as_str(),
        stream: r.stream,
        model: r.response_model.clone().or(r.model),
        usage: r.usage,
        assembled: answered.then_some(Assembled {
            id: r.response_id,
            model: r.response_model,
            choices: r.choices,
        }),
    }
}
