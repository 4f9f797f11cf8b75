use std::collections::HashMap;

use crate::model::{Api, Message, Reading, Role, TrajectoryId, Transcript};
use crate::store::{Store, StoreError, Turn};
use crate::wire;

/// Loads what was said in a trajectory from the recorded bodies; none where there is no such trajectory.
///
/// A request carries its whole history, so the last one on a branch and its answer are enough; requests of the
/// Responses API that name a previous response carry only what is new, so those are added up along their parents.
///
/// # Errors
/// When the store cannot be read.
pub fn transcript(store: &Store, id: TrajectoryId) -> Result<Option<Transcript>, StoreError> {
    let Some(trajectory) = store.trajectory(id)? else { return Ok(None) };
    let turns = store.turns(id)?;
    let branch = branch_of(&turns);
    let mut messages: Vec<Message> = Vec::new();
    let mut answers: HashMap<i64, usize> = HashMap::new();
    let mut tools = Vec::new();
    let mut output_schema = None;

    for (at, turn) in branch.iter().enumerate() {
        let last = at + 1 == branch.len();
        let incremental = turn.api == Api::Responses;
        if !last && !incremental {
            continue;
        }
        let Some(exchange) = store.exchange(turn.step.exchange)? else { continue };
        let Reading {
            messages: sent,
            tools: offered,
            output_schema: schema,
            choices,
            previous_response_id,
            ..
        } = wire::read(&exchange);
        if incremental && previous_response_id.is_some() {
            // Instructions are sent again each time; one copy is enough.
            messages.extend(sent.into_iter().filter(|m| m.role != Role::System));
        } else {
            messages = sent;
            answers.clear();
            // The answers of earlier turns stand where their requests ended.
            for earlier in &branch[..at] {
                let index = earlier.messages as usize;
                if earlier.answered && messages.get(index).is_some_and(|m| m.role == Role::Assistant) {
                    answers.insert(earlier.seq, index);
                }
            }
        }
        if !offered.is_empty() {
            tools = offered;
        }
        output_schema = schema;
        if let Some(choice) = choices.into_iter().next()
            && turn.answered
        {
            answers.insert(turn.seq, messages.len());
            messages.push(choice.message);
        }
    }

    let steps = turns
        .into_iter()
        .map(|turn| {
            let mut step = turn.step;
            step.message = answers.get(&turn.seq).copied();
            step
        })
        .collect();
    Ok(Some(Transcript { trajectory: id, scope: trajectory.scope, messages, steps, tools, output_schema }))
}

/// The turns from the first to the one that ended last, along parents; a retry's parent is the attempt before it.
fn branch_of(turns: &[Turn]) -> Vec<&Turn> {
    let by_seq: HashMap<i64, &Turn> = turns.iter().map(|t| (t.seq, t)).collect();
    let tip = turns.iter().rev().find(|t| t.answered).or(turns.last());
    let mut branch = Vec::new();
    let mut next = tip;
    while let Some(turn) = next {
        branch.push(turn);
        // A parent is always recorded before its child, so this ends.
        next = turn.parent.filter(|p| *p < turn.seq).and_then(|p| by_seq.get(&p).copied());
    }
    branch.reverse();
    branch
}
