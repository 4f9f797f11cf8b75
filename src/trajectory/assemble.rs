use super::{chain, session};
use crate::model::{Exchange, Link, Message, Reading, Role, TrajectoryId};
use crate::store::{Anchor, Chain, NewTurn, Place, Placing, Store, StoreError};
use crate::wire;

/// What a round of assembly did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caught {
    /// Exchanges read.
    pub exchanges: u64,
    /// Of these, how many are model turns.
    pub turns: u64,
}

/// Exchanges placed in one transaction, at most: other processes wait for it.
const BATCH: usize = 64;
/// Length of the task line in characters.
const TASK_LENGTH: usize = 300;

/// Reads every exchange that was recorded before the call and is not assembled yet, and places it. Any process may call
/// it at any time; two at once share the work.
///
/// # Errors
/// When the store cannot be read or written. What was placed before stays placed.
pub fn catch_up(store: &Store) -> Result<Caught, StoreError> {
    catch_up_while(store, &|| true)
}

/// As [`catch_up`], as long as `go_on` says so; it is asked between batches.
///
/// # Errors
/// As [`catch_up`].
pub fn catch_up_while(store: &Store, go_on: &dyn Fn() -> bool) -> Result<Caught, StoreError> {
    let mut caught = Caught::default();
    // What is recorded meanwhile is left for the next round, so that a busy proxy's round ends.
    let (_, until) = store.recorded()?;
    loop {
        if !go_on() {
            return Ok(caught);
        }
        let from = store.assembled()?;
        let mut turns = Vec::with_capacity(BATCH);
        let mut to = from;
        while turns.len() < BATCH && to < until {
            let Some((seq, exchange)) = store.exchange_after(to)? else { break };
            to = seq;
            turns.push(Digest::of(seq, &exchange, &wire::read(&exchange)));
        }
        if turns.is_empty() {
            return Ok(caught);
        }
        let placed = store.place_turns(from, to, |placing| {
            for digest in &turns {
                let place = digest.place(placing)?;
                placing.keep(&digest.turn, place, digest.session.as_ref().map(|s| s.id.as_str()))?;
            }
            Ok(())
        })?;
        if placed {
            caught.exchanges += turns.len() as u64;
            caught.turns += turns.iter().filter(|d| d.converses).count() as u64;
        }
    }
}

/// What placing needs of an exchange; the bodies themselves are let go.
struct Digest {
    turn: NewTurn,
    converses: bool,
    session: Option<session::Session>,
    previous_response_id: Option<String>,
    /// Chains after the assistant's messages in the request, the longest first.
    answers: Vec<Chain>,
    /// Ids of the calls that the request's tool results answer, the last first.
    answered_calls: Vec<String>,
}

impl Digest {
    fn of(seq: i64, exchange: &Exchange, reading: &Reading) -> Self {
        let chains = chain::of(&reading.messages);
        let reply = reading.choices.first().map(|c| &c.message).filter(|m| !is_empty(m));
        let mut scope = exchange.scope.clone();
        if scope.user.is_empty() {
            scope.user = reading.user.clone().unwrap_or_default();
        }
        let error = reading.error.as_ref().map(|e| e.message.clone()).or_else(|| exchange.detail.clone());
        let turn = NewTurn {
            seq,
            exchange: exchange.id,
            started: exchange.timing.started,
            ended: exchange.timing.ended,
            api: reading.api,
            model: reading.model.clone(),
            response_model: reading.response_model.clone(),
            response_id: reading.response_id.clone(),
            stream: reading.stream,
            finish_reason: reading.choices.first().and_then(|c| c.finish_reason.clone()),
            error,
            usage: reading.usage.unwrap_or_default(),
            messages: u32::try_from(reading.messages.len()).unwrap_or(u32::MAX),
            partition: format!(
                "{}\0{}\0{}",
                scope.tenant,
                scope.app,
                exchange.client_key.as_deref().unwrap_or_default()
            ),
            connection: exchange.connection,
            system_hash: chains.system,
            request_chain: (!reading.messages.is_empty()).then(|| chains.whole()),
            reply_chain: reply.map(|reply| chain::extend(&chains.whole(), reply)),
            call_ids: reply
                .map(|m| m.tool_calls.iter().filter(|c| !c.id.is_empty()).map(|c| c.id.clone()).collect())
                .unwrap_or_default(),
            task: task_of(&reading.messages),
            scope,
        };
        Self {
            converses: reading.api.converses()
                && (!reading.messages.is_empty() || !reading.choices.is_empty()),
            session: session::of(&exchange.request_headers, reading),
            previous_response_id: reading.previous_response_id.clone(),
            answers: chains
                .after
                .iter()
                .rev()
                .filter(|(r, _)| *r == Role::Assistant)
                .map(|(_, c)| *c)
                .collect(),
            answered_calls: reading.messages.iter().rev().filter_map(|m| m.tool_call_id.clone()).collect(),
            turn,
        }
    }

    /// Finds where the turn belongs: by name, by response id, by prefix, as a retry, by tool call; else it starts a
    /// trajectory.
    fn place(&self, placing: &Placing<'_>) -> rusqlite::Result<Option<Place>> {
        if !self.converses {
            return Ok(None);
        }
        if let Some(session) = self.session.as_ref().filter(|s| s.is_task) {
            let known = placing.session(&session.id, &self.turn.scope)?;
            let parent = match known {
                // A parent is a turn of the same trajectory.
                Some(id) => {
                    self.continued(placing, known)?.filter(|(a, ..)| a.trajectory == id).map(|(a, ..)| a.seq)
                }
                None => None,
            };
            let trajectory = known.unwrap_or_else(TrajectoryId::new);
            return Ok(Some(Place {
                trajectory,
                parent,
                link: Link::Explicit,
                confidence: session.confidence,
            }));
        }
        if let Some((anchor, link, confidence)) = self.continued(placing, None)? {
            return Ok(Some(Place {
                trajectory: anchor.trajectory,
                parent: Some(anchor.seq),
                link,
                confidence,
            }));
        }
        let Some(trace) = &self.session else {
            let trajectory = TrajectoryId::new();
            return Ok(Some(Place { trajectory, parent: None, link: Link::First, confidence: 1.0 }));
        };
        let trajectory = placing.session(&trace.id, &self.turn.scope)?.unwrap_or_else(TrajectoryId::new);
        Ok(Some(Place { trajectory, parent: None, link: Link::Explicit, confidence: trace.confidence }))
    }

    fn continued(
        &self,
        placing: &Placing<'_>,
        within: Option<TrajectoryId>,
    ) -> rusqlite::Result<Option<(Anchor, Link, f64)>> {
        if let Some(id) = &self.previous_response_id
            && let Some(anchor) = placing.response(id, &self.turn)?
        {
            return Ok(Some((anchor, Link::ResponseId, 1.0)));
        }
        for chain in &self.answers {
            if let Some(anchor) = placing.answered(chain, &self.turn, within)? {
                return Ok(Some((anchor, Link::Prefix, 0.95)));
            }
        }
        for call_id in &self.answered_calls {
            if let Some(anchor) = placing.tool_call(call_id, &self.turn)? {
                return Ok(Some((anchor, Link::ToolCall, 0.9)));
            }
        }
        Ok(placing.unanswered(&self.turn)?.map(|anchor| (anchor, Link::Retry, 0.9)))
    }
}

fn is_empty(message: &Message) -> bool {
    message.text.is_empty() && message.tool_calls.is_empty() && message.refusal.is_none()
}

/// The first user message on one line, shortened.
fn task_of(messages: &[Message]) -> String {
    let Some(first) = messages.iter().find(|m| m.role == Role::User) else { return String::new() };
    let mut line = String::new();
    for word in first.text.split_whitespace() {
        if line.chars().count() + word.chars().count() >= TASK_LENGTH {
            line.push('…');
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.is_empty() { first.text.chars().take(TASK_LENGTH).collect() } else { line }
}
