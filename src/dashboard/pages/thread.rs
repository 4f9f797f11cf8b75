//! The messages of a transcript as a page shows them.

use std::collections::{HashMap, HashSet};

use super::trajectory::Turned;
use crate::dashboard::parts::Block;
use crate::dashboard::text::{self, Text};
use crate::dashboard::waterfall::note;
use crate::model::{FailingStep, Message, Role, Step, Transcript};

/// Tool calls shown of one message; the rest is a number.
const CALLS: usize = 32;

/// One message.
#[derive(Debug)]
pub(super) struct MessageView {
    pub(super) index: usize,
    pub(super) role: &'static str,
    pub(super) name: Option<Text>,
    /// Of a model's turn: which, and how it went.
    pub(super) step: Option<StepHead>,
    /// Why this is the failing step.
    pub(super) failing: Option<Text>,
    pub(super) reasoning: Option<Block>,
    pub(super) text: Option<Block>,
    pub(super) refusal: Option<Text>,
    pub(super) calls: Vec<CallView>,
    pub(super) more_calls: usize,
    /// Of a tool's result: the call it answers.
    pub(super) answers: Option<AnsweredCall>,
    pub(super) tool_failed: bool,
}

#[derive(Debug)]
pub(super) struct StepHead {
    pub(super) number: usize,
    pub(super) facts: Vec<Text>,
    pub(super) note: Option<String>,
}

#[derive(Debug)]
pub(super) struct CallView {
    pub(super) name: Text,
    pub(super) id: Text,
    pub(super) arguments: Block,
    /// The arguments are no JSON.
    pub(super) broken: bool,
}

#[derive(Debug)]
pub(super) struct AnsweredCall {
    pub(super) id: Text,
    /// The tool's name, where the call is in the conversation.
    pub(super) tool: Option<Text>,
}

/// The messages of one page of a transcript.
pub(super) fn messages(
    transcript: &Transcript,
    turned: &Turned,
    failing: Option<&FailingStep>,
) -> Vec<MessageView> {
    let shown = &transcript.messages[turned.range.clone()];
    let step_of: HashMap<usize, usize> =
        transcript.steps.iter().enumerate().filter_map(|(s, step)| Some((step.message?, s))).collect();
    // Only calls that a result on this page answers are looked up: names of a thousand others are not needed.
    let wanted: HashSet<&str> = shown.iter().filter_map(|m| m.tool_call_id.as_deref()).collect();
    let tools: HashMap<&str, &str> = transcript.messages[..turned.range.end]
        .iter()
        .flat_map(|m| &m.tool_calls)
        .filter(|c| wanted.contains(c.id.as_str()))
        .map(|c| (c.id.as_str(), c.name.as_str()))
        .collect();
    // The results of the failing step's calls say what failed: they stand open.
    let failing_answer = failing.and_then(|f| transcript.answer(f.step));
    let failing_calls: HashSet<&str> =
        failing_answer.into_iter().flat_map(|m| &m.tool_calls).map(|c| c.id.as_str()).collect();

    shown
        .iter()
        .zip(turned.range.clone())
        .map(|(message, index)| {
            let step = step_of.get(&index).copied();
            let reason = failing.filter(|f| step == Some(f.step)).map(|f| Text::line(&f.reason, 600));
            let answers = message.tool_call_id.as_deref();
            let open = reason.is_some() || answers.is_some_and(|id| failing_calls.contains(id));
            let step = step.and_then(|s| Some((s, transcript.steps.get(s)?)));
            MessageView {
                answers: answers.map(|id| AnsweredCall {
                    id: Text::line(id, 60),
                    tool: tools.get(id).map(|t| Text::line(t, 80)),
                }),
                failing: reason,
                ..view(message, index, step, open)
            }
        })
        .collect()
}

fn view(message: &Message, index: usize, step: Option<(usize, &Step)>, open: bool) -> MessageView {
    let text = (!message.text.is_empty()).then(|| match message.role {
        Role::Tool => Block::mono(&message.text),
        _ => Block::new(&message.text),
    });
    MessageView {
        index,
        role: message.role.as_str(),
        name: message.name.as_deref().map(|n| Text::line(n, 80)),
        step: step.map(|(number, step)| StepHead { number, facts: facts(step), note: note(step) }),
        failing: None,
        reasoning: message.reasoning.as_deref().filter(|r| !r.is_empty()).map(Block::new),
        text: text.map(|t| t.opened(open)),
        refusal: message.refusal.as_deref().map(|r| Text::of(text::beginning(r, 4096))),
        calls: message
            .tool_calls
            .iter()
            .take(CALLS)
            .map(|c| CallView {
                name: Text::line(&c.name, 80),
                id: Text::line(&c.id, 60),
                broken: serde_json::from_str::<serde::de::IgnoredAny>(&c.arguments).is_err(),
                arguments: Block::mono(&c.arguments).opened(open),
            })
            .collect(),
        more_calls: message.tool_calls.len().saturating_sub(CALLS),
        answers: None,
        tool_failed: message.tool_failed,
    }
}

fn facts(step: &Step) -> Vec<Text> {
    let mut facts = Vec::new();
    if let Some(model) = &step.model {
        facts.push(Text::line(model, 60));
    }
    facts.push(Text::of(text::duration(step.duration)));
    if let Some(n) = step.usage.and_then(|u| u.output_tokens) {
        facts.push(Text::of(format!("{} tokens", text::count(n))));
    }
    if let Some(reason) = &step.finish_reason {
        facts.push(Text::line(reason, 40));
    }
    facts
}
