use clap::Args;
use serde_json::json;

use super::{Common, Failure, Outcome, open_store, output};
use crate::model::{ExchangeId, Micros, Scope, TrajectoryId, Transcript};
use crate::store::Store;
use crate::{outcome, trajectory, wire};

/// Show one trajectory or exchange: what was said, how it ended, who says so.
#[derive(Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    common: Common,
    /// An id (tr_… or ex_…), the upstream's response id, or a session name.
    id: String,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

impl Show {
    pub fn run(self) -> Outcome {
        let store = open_store(&self.common.load()?)?;
        trajectory::catch_up(&store)?;
        outcome::assess(&store, Micros::now())?;
        if let Ok(id) = self.id.parse::<ExchangeId>()
            && let Some(exchange) = store.exchange(id)?
        {
            let reading = wire::read(&exchange);
            return Ok(output::json_line(&json!({
                "exchange_id": id,
                "trajectory_id": store.find_exchange(id)?,
                "target": exchange.target,
                "status": exchange.response.as_ref().map(|r| r.status),
                "ended": exchange.ended.as_str(),
                "detail": exchange.detail,
                "request_headers": exchange.request_headers,
                "response_headers": exchange.response.as_ref().map(|r| &r.headers),
                "reading": reading,
            }))?);
        }
        let Some(id) = resolve(&store, &self.id)? else {
            return Err(Failure::Failed(anyhow::anyhow!(
                "{:?}: no trajectory, exchange, response or session has this id",
                self.id
            )));
        };
        let found = store.trajectory(id)?.zip(trajectory::transcript(&store, id)?);
        let (summary, transcript) = found.expect("it was just resolved");
        let votes = store.votes(id)?;
        if self.json {
            return Ok(output::json_line(&json!({
                "trajectory": summary,
                "votes": votes,
                "messages": transcript.messages,
            }))?);
        }
        output::line(format_args!("{id}  {}  {} to {}", summary.scope, summary.started, summary.ended))?;
        if let Some(o) = &summary.outcome {
            let p = o.p_success.map_or(String::new(), |p| format!(" (p {p:.2})"));
            output::line(format_args!("outcome: {}{p}", o.label))?;
            if let Some(f) = &o.failing_step {
                output::line(format_args!("failing step: {}, {}", f.step, output::safe(&f.reason, 300)))?;
            }
        }
        for v in votes {
            output::line(format_args!(
                "  {:<18} {:.2} (confidence {:.2})  {}",
                v.source.to_string(),
                v.value,
                v.confidence,
                output::safe(&v.evidence, 200)
            ))?;
        }
        Ok(messages(&transcript)?)
    }
}

fn resolve(store: &Store, id: &str) -> anyhow::Result<Option<TrajectoryId>> {
    if let Ok(id) = id.parse::<TrajectoryId>()
        && store.trajectory(id)?.is_some()
    {
        return Ok(Some(id));
    }
    if let Some((id, _)) = store.find_response(id)? {
        return Ok(Some(id));
    }
    Ok(store.find_session(id, &Scope::default().tenant, None)?)
}

fn messages(transcript: &Transcript) -> anyhow::Result<()> {
    for message in &transcript.messages {
        output::line(format_args!("\n[{}] {}", message.role, output::safe(&message.text, 2000)))?;
        for call in &message.tool_calls {
            output::line(format_args!(
                "  → {}({})",
                output::safe(&call.name, 80),
                output::safe(&call.arguments, 500)
            ))?;
        }
    }
    Ok(())
}
