use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::onnx::lora::Lora;
use crate::serve::grammar::Grammar;
use crate::serve::sampling::Sampling;
use crate::serve::voice::Told;

/// What one request wants: `choices` answers to each of its prompts.
pub(crate) struct Order {
    /// Each with at least one token, and fewer than the engine's context.
    pub prompts: Vec<Vec<u32>>,
    /// Answers a prompt. Numbered through: those to the first prompt first.
    pub choices: usize,
    /// Tokens an answer may have, at least 1; fewer where the context ends before.
    pub limit: usize,
    /// None: the base model.
    pub adapter: Option<Arc<Lora>>,
    pub sampling: Sampling,
    /// Strings that end an answer; none of them empty.
    pub stops: Vec<String>,
    /// Tokens that end an answer.
    pub stop_tokens: Vec<u32>,
    pub grammar: Option<Grammar>,
}

/// What becomes of an order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// An answer goes on. Its first event comes with its first token, also when there is nothing to send yet.
    Said { choice: usize, text: String, told: Vec<Told> },
    /// An answer is complete.
    Ended {
        choice: usize,
        finish: Finish,
        /// Tokens that were generated, the one that ended it included.
        tokens: usize,
        /// Tokens of the prompt that had been read before.
        cached: usize,
    },
    /// Nothing more comes, for any of the answers.
    Failed(Failure),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
}

impl Finish {
    /// As OpenAI's API says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// An order cannot be completed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the engine failed: {0}")]
    Engine(String),
    #[error("the answer cannot go on: {0}")]
    Stuck(String),
    #[error("the server is stopping")]
    Stopping,
}

/// The worker's end of an order's events.
pub(super) struct Outlet {
    events: mpsc::Sender<Event>,
    failed: AtomicBool,
}

/// The events of one order. Dropping it cancels the order.
pub(crate) struct Answer {
    events: mpsc::Receiver<Event>,
}

impl Order {
    /// Answers in all.
    pub(crate) fn answers(&self) -> usize {
        self.prompts.len() * self.choices
    }

    pub(super) fn prompt(&self, choice: usize) -> &[u32] {
        &self.prompts[choice / self.choices]
    }
}

/// The channel holds all that the order can say, so that the worker never waits for a client.
pub(super) fn channel(order: &Order) -> (Outlet, Answer) {
    // A piece a token, what is left at the end, the end.
    let capacity = order.answers().saturating_mul(order.limit.saturating_add(2)).saturating_add(1);
    let (sender, receiver) = mpsc::channel(capacity.min(tokio::sync::Semaphore::MAX_PERMITS));
    (Outlet { events: sender, failed: AtomicBool::new(false) }, Answer { events: receiver })
}

impl Outlet {
    pub(super) fn send(&self, event: Event) {
        let sent = self.events.try_send(event);
        debug_assert!(
            !matches!(sent, Err(mpsc::error::TrySendError::Full(_))),
            "the channel holds all events"
        );
    }

    pub(super) fn fail(&self, failure: Failure) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            self.send(Event::Failed(failure));
        }
    }

    /// Nobody wants to hear more of it.
    pub(super) fn is_over(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.events.is_closed()
    }
}

impl Answer {
    /// The next event; none when the worker is gone, or everything was said.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }
}
