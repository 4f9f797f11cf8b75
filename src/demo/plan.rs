use std::time::Duration;

use super::draw::SEED;
use super::topic::Topic;

/// What is to be played.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Decides who asks for what, which turns stream, who thanks and who complains.
    pub seed: u64,
    pub conversations: usize,
    /// Conversations at a time.
    pub concurrency: usize,
    /// Turns that are streamed, in percent.
    pub streamed: u64,
    /// Conversations that name themselves in `x-remora-session`, in percent.
    pub named: u64,
    /// Conversations that end with feedback, in percent.
    pub feedback: u64,
    /// How often feedback is offered again while the proxy does not know the answer it is about, and the pause between.
    pub feedback_patience: (u32, Duration),
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: SEED,
            conversations: 14 * Topic::ALL.len(),
            concurrency: 6,
            streamed: 50,
            named: 20,
            feedback: 35,
            feedback_patience: (20, Duration::from_millis(250)),
        }
    }
}

/// One conversation that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Played {
    /// Its number in the plan, from 0.
    pub index: usize,
    pub topic: Topic,
    /// Whether the customer got what was asked for.
    pub well: bool,
    /// All that was said, in the form of the API.
    pub messages: Vec<serde_json::Value>,
    /// Ids of the model's answers, in order.
    pub response_ids: Vec<String>,
    pub requests: u32,
    pub streamed: u32,
    /// Answers of the model's server with a status of 500 or more.
    pub server_errors: u32,
}

/// How one topic went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    pub topic: Topic,
    pub well: u32,
    pub wrong: u32,
}

/// How everything went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub conversations: u32,
    pub requests: u32,
    pub streamed: u32,
    pub feedback_given: u32,
    /// Feedback that the proxy did not take.
    pub feedback_refused: u32,
    /// In the order of [`Topic::ALL`]; topics that were not played are left out.
    pub topics: Vec<Tally>,
    pub seconds: f64,
}

impl Summary {
    #[must_use]
    pub fn wrong(&self) -> u32 {
        self.topics.iter().map(|t| t.wrong).sum()
    }

    pub(super) fn of(all: &[Played]) -> Self {
        let tally = |topic| {
            let well = all.iter().filter(|p| p.topic == topic && p.well).count() as u32;
            let wrong = all.iter().filter(|p| p.topic == topic && !p.well).count() as u32;
            Tally { topic, well, wrong }
        };
        Self {
            conversations: all.len() as u32,
            requests: all.iter().map(|p| p.requests).sum(),
            streamed: all.iter().map(|p| p.streamed).sum(),
            topics: Topic::ALL.into_iter().map(tally).filter(|t| t.well + t.wrong > 0).collect(),
            ..Self::default()
        }
    }
}
