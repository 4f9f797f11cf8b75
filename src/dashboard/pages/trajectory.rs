use std::ops::Range;

use askama::Template;
use serde::Serialize;
use serde_json::{Value, json};

use super::thread::{MessageView, messages};
use super::trajectories::{TrajectoryRow, row, task};
use super::{Frame, Section, id, missing};
use crate::dashboard::error::PageError;
use crate::dashboard::parts::{Block, When};
use crate::dashboard::site::View;
use crate::dashboard::text::{self, Text};
use crate::dashboard::waterfall::{Links, Waterfall};
use crate::model::{FailingStep, Feedback, Step, Trajectory, TrajectoryId, Transcript, Vote};

/// Messages on one page. With the limits of a [`Block`] a page stays under a few megabytes whatever was recorded.
const A_PAGE: usize = 50;
/// More steps are shown page by page, like their messages.
const ALL_STEPS: usize = 100;

/// One trajectory: what was said, what it cost, how it ended and who says so.
#[derive(Template)]
#[template(path = "trajectory.html")]
pub(in crate::dashboard) struct TrajectoryPage {
    frame: Frame,
    id: String,
    task: Text,
    head: TrajectoryRow,
    ended: When,
    link: &'static str,
    link_confidence: String,
    link_means: &'static str,
    app: Text,
    scope_href: String,
    user: Option<Text>,
    failing: Option<FailingLink>,
    votes: Vec<VoteRow>,
    feedback: Vec<FeedbackRow>,
    /// None where the bodies are not kept any more.
    thread: Option<Thread>,
}

/// The failing step: where it stands and why it is the one.
struct FailingLink {
    step: usize,
    reason: Text,
    href: String,
}

struct VoteRow {
    source: Text,
    value: f64,
    verdict: &'static str,
    confidence: String,
    step: Option<(usize, String)>,
    evidence: Text,
}

struct FeedbackRow {
    source: Text,
    given: When,
    label: Option<&'static str>,
    reward: Option<String>,
    correction: Option<Block>,
    comment: Option<Block>,
}

struct Thread {
    messages: Vec<MessageView>,
    waterfall: Waterfall,
    steps: usize,
    pages: Vec<PageLink>,
    total: usize,
    first: usize,
    last: usize,
    tokens: Option<(String, String)>,
    tools: Vec<Text>,
}

struct PageLink {
    number: usize,
    href: String,
    current: bool,
}

/// Which part of the messages is turned up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turned {
    page: usize,
    pages: usize,
    pub(super) range: Range<usize>,
}

impl Turned {
    /// The page asked for, else the one that `step`'s answer is on, else the first.
    fn new(total: usize, page: Option<usize>, message: Option<usize>) -> Self {
        let pages = total.div_ceil(A_PAGE).max(1);
        let page = page.or(message.map(|m| m / A_PAGE + 1)).unwrap_or(1).clamp(1, pages);
        let start = (page - 1) * A_PAGE;
        Self { page, pages, range: start..total.min(start + A_PAGE) }
    }

    /// Where on the page, or on which page, a step is found.
    fn href(&self, trajectory: TrajectoryId, steps: &[Step], step: usize) -> String {
        let here = steps.get(step).and_then(|s| s.message).is_none_or(|m| self.range.contains(&m));
        if here {
            format!("#step-{step}")
        } else {
            format!("/trajectories/{trajectory}?step={step}#step-{step}")
        }
    }

    /// The steps that stand beside the messages of this page.
    fn steps(&self, steps: &[Step]) -> Vec<usize> {
        if steps.len() <= ALL_STEPS {
            return (0..steps.len()).collect();
        }
        let on_page = |s: &usize| steps[*s].message.is_some_and(|m| self.range.contains(&m));
        let first = (0..steps.len()).find(on_page).unwrap_or(0);
        let last = (0..steps.len()).rfind(on_page).unwrap_or(0);
        // Steps without a message stand between those that have one; of long runs of them only the beginning.
        (first..=last).take(2 * ALL_STEPS).collect()
    }
}

struct Loaded {
    trajectory: Trajectory,
    votes: Vec<Vote>,
    feedback: Vec<Feedback>,
    transcript: Option<(Transcript, Turned)>,
}

fn load(view: &View<'_>, given: &str) -> Result<Loaded, PageError> {
    let id: TrajectoryId = id("trajectory", given)?;
    let trajectory = view.store.trajectory(id)?.ok_or_else(|| missing("trajectory", given))?;
    let page = view.params.read("page", "a page number, from 1")?;
    let step: Option<usize> = view.params.read("step", "a step number, from 0")?;
    let transcript = (view.transcript)(view.store, id)?.map(|t| {
        let message = step.and_then(|s| t.steps.get(s)?.message);
        let turned = Turned::new(t.messages.len(), page, message);
        (t, turned)
    });
    Ok(Loaded { trajectory, votes: view.store.votes(id)?, feedback: view.store.feedback(id)?, transcript })
}

pub(super) fn page(view: &View<'_>, given: &str) -> Result<TrajectoryPage, PageError> {
    let Loaded { trajectory, votes, feedback, transcript } = load(view, given)?;
    let id = trajectory.id;
    let href = |step: usize| match &transcript {
        Some((t, turned)) => turned.href(id, &t.steps, step),
        None => format!("#step-{step}"),
    };
    let failing = trajectory.outcome.as_ref().and_then(|o| o.failing_step.as_ref());
    let title = task(&trajectory, 200);
    let titles = view.store.view_cluster_titles(trajectory.cluster_id.as_slice())?;
    let app = trajectory.scope.of_app().to_string();
    Ok(TrajectoryPage {
        frame: Frame::new(title.as_str(), Some(Section::Trajectories))
            .with_json(view.params.link(&format!("/api/trajectories/{id}"), &[])),
        id: id.to_string(),
        task: title,
        head: row(&trajectory, view, &titles),
        ended: When::new(trajectory.ended, view.now),
        link: trajectory.link.as_str(),
        link_confidence: format!("{:.2}", trajectory.link_confidence),
        link_means: link_means(trajectory.link),
        user: (!trajectory.scope.user.is_empty()).then(|| Text::line(&trajectory.scope.user, 80)),
        app: Text::line(&app, 80),
        scope_href: crate::dashboard::params::address("/trajectories", [("scope", app.as_str())]),
        failing: failing.map(|f| FailingLink {
            step: f.step,
            reason: Text::line(&f.reason, 600),
            href: href(f.step),
        }),
        votes: votes.iter().map(|v| vote_row(v, &href)).collect(),
        feedback: feedback.iter().map(|f| feedback_row(f, view)).collect(),
        thread: transcript.as_ref().map(|(t, turned)| thread(t, turned, failing)),
    })
}

fn vote_row(vote: &Vote, href: &dyn Fn(usize) -> String) -> VoteRow {
    VoteRow {
        source: Text::line(vote.source.to_string().replace('_', " "), 60),
        value: vote.value,
        verdict: match vote.value {
            v if v >= 0.75 => "success",
            v if v <= 0.25 => "failure",
            _ => "partial",
        },
        confidence: format!("{:.2}", vote.confidence),
        step: vote.step.map(|s| (s, href(s))),
        evidence: Text::line(&vote.evidence, 600),
    }
}

fn feedback_row(feedback: &Feedback, view: &View<'_>) -> FeedbackRow {
    FeedbackRow {
        source: Text::line(&feedback.source, 60),
        given: When::new(feedback.given, view.now),
        label: feedback.label.map(crate::model::Label::as_str),
        reward: feedback.reward.map(|r| format!("{r:.2}")),
        correction: feedback.correction.as_deref().map(Block::new),
        comment: feedback.comment.as_deref().map(Block::new),
    }
}

fn thread(transcript: &Transcript, turned: &Turned, failing: Option<&FailingStep>) -> Thread {
    let id = transcript.trajectory;
    let shown = turned.steps(&transcript.steps);
    let href = |step| turned.href(id, &transcript.steps, step);
    let links = Links { shown: &shown, failing: failing.map(|f| f.step), href: &href };
    let sum = |tokens: fn(&crate::model::Usage) -> Option<u64>| {
        let counted: Vec<u64> = transcript.steps.iter().filter_map(|s| tokens(s.usage.as_ref()?)).collect();
        (!counted.is_empty()).then(|| text::count(counted.iter().sum()))
    };
    Thread {
        messages: messages(transcript, turned, failing),
        waterfall: Waterfall::new(&transcript.steps, &links),
        steps: transcript.steps.len(),
        pages: page_links(id, turned),
        total: transcript.messages.len(),
        first: turned.range.start + 1,
        last: turned.range.end,
        tokens: sum(|u| u.input_tokens).zip(sum(|u| u.output_tokens)),
        tools: transcript.tools.iter().take(60).map(|t| Text::line(&t.name, 60)).collect(),
    }
}

/// The first, the last and those around the current page; none where there is one page.
fn page_links(id: TrajectoryId, turned: &Turned) -> Vec<PageLink> {
    let near = |n: &usize| *n == 1 || *n == turned.pages || n.abs_diff(turned.page) <= 3;
    let link = |number| PageLink {
        number,
        href: format!("/trajectories/{id}?page={number}"),
        current: number == turned.page,
    };
    if turned.pages == 1 { Vec::new() } else { (1..=turned.pages).filter(near).map(link).collect() }
}

fn link_means(link: crate::model::Link) -> &'static str {
    use crate::model::Link;
    match link {
        Link::Explicit => "the client named the session",
        Link::ResponseId => "requests name the answer that they continue",
        Link::Prefix => "requests begin with what was said before",
        Link::Retry => "the same request again after one without an answer",
        Link::ToolCall => "tool results answer recorded calls",
        Link::First => "nothing to join: one exchange",
    }
}

/// The same for programs: whole texts, one page of the messages.
#[derive(Serialize)]
pub(in crate::dashboard) struct TrajectoryAnswer {
    trajectory: Trajectory,
    votes: Vec<Vote>,
    feedback: Vec<Feedback>,
    transcript: Option<Value>,
}

pub(super) fn answer(view: &View<'_>, given: &str) -> Result<TrajectoryAnswer, PageError> {
    let Loaded { trajectory, votes, feedback, transcript } = load(view, given)?;
    let transcript = transcript.map(|(t, turned)| {
        json!({
            "first_message": turned.range.start,
            "messages": t.messages[turned.range.clone()],
            "messages_total": t.messages.len(),
            "page": turned.page,
            "pages": turned.pages,
            "steps": t.steps.iter().map(step_json).collect::<Vec<_>>(),
            "tools": t.tools,
            "output_schema": t.output_schema,
        })
    });
    Ok(TrajectoryAnswer { trajectory, votes, feedback, transcript })
}

/// Durations in milliseconds.
fn step_json(step: &Step) -> Value {
    json!({
        "exchange_id": step.exchange,
        "response_id": step.response_id,
        "message": step.message,
        "status": step.status,
        "ended": step.ended.as_str(),
        "finish_reason": step.finish_reason,
        "model": step.model,
        "usage": step.usage,
        "started": step.started,
        "duration_ms": step.duration.as_secs_f64() * 1e3,
        "time_to_first_byte_ms": step.time_to_first_byte.map(|t| t.as_secs_f64() * 1e3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_turns_up_the_page_with_its_answer() {
        assert_eq!(Turned::new(120, None, Some(77)), Turned { page: 2, pages: 3, range: 50..100 });
        assert_eq!(Turned::new(120, Some(3), Some(77)).range, 100..120);
        assert_eq!(Turned::new(120, Some(99), None).range, 100..120);
        assert_eq!(Turned::new(0, None, None), Turned { page: 1, pages: 1, range: 0..0 });
    }
}
