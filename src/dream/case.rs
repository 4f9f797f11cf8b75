//! A trajectory as the night looks at it: what was asked, what was done, how it ended. Smaller than its transcript.

use sha2::{Digest, Sha256};

use super::actions::{Action, actions};
use super::mask::{mask, shorten};
use super::signature;
use crate::model::{Feedback, Label, Micros, Role, Signature, Trajectory, TrajectoryId, Transcript, Vote};

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub id: TrajectoryId,
    pub failed: bool,
    pub ended: Micros,
    /// The first user message, masked and shortened: for finding like tasks.
    pub task: String,
    pub actions: Vec<Action>,
    /// Index into `actions` of where it went wrong; failures only.
    pub failing: Option<usize>,
    pub signature: Signature,
    /// The last messages, masked and shortened.
    pub tail: String,
    /// Model turns.
    pub turns: usize,
    pub user_turns: usize,
    pub cut_off: bool,
    /// Equal for runs of one agent: the tools it was offered, or its instructions. Agents that share a scope are not
    /// compared with each other.
    pub family: u64,
    /// What users said should have happened, as they said it.
    pub corrections: Vec<String>,
}

/// Characters of a task or of last messages that are compared.
const TEXT: usize = 400;

impl Case {
    /// None for outcomes that teach nothing: unknown and partial ones.
    #[must_use]
    pub(super) fn of(
        t: &Trajectory,
        transcript: &Transcript,
        votes: &[Vote],
        feedback: &[Feedback],
    ) -> Option<Self> {
        let outcome = t.outcome.as_ref()?;
        let failed = match outcome.label {
            Label::Failure => true,
            Label::Success => false,
            Label::Partial | Label::Unknown => return None,
        };
        let actions = actions(transcript);
        let (failing, signature) = if failed {
            let step = outcome.failing_step.as_ref().map(|f| f.step);
            signature::of(transcript, &actions, votes, feedback, step)
        } else {
            (None, Signature::default())
        };
        let spoken = |role| transcript.messages.iter().filter(move |m| m.role == role);
        let task = spoken(Role::User).next().map_or(t.task.as_str(), |m| m.text.as_str());
        let last = transcript.messages.iter().rev().filter(|m| m.role != Role::System && !m.text.is_empty());
        let mut tail: Vec<_> = last.take(4).map(|m| mask(&m.text)).collect();
        tail.reverse();
        Some(Self {
            id: t.id,
            failed,
            ended: t.ended,
            task: shorten(&mask_long(task), TEXT),
            failing,
            signature,
            tail: shorten(&tail.join(" | "), TEXT),
            turns: transcript.steps.len(),
            user_turns: spoken(Role::User).count(),
            cut_off: transcript
                .steps
                .last()
                .is_some_and(|s| matches!(s.finish_reason.as_deref(), Some("length" | "max_tokens"))),
            family: family(transcript),
            corrections: feedback
                .iter()
                .filter_map(|f| f.correction.clone())
                .filter(|c| !c.trim().is_empty())
                .collect(),
            actions,
        })
    }

    /// Calls made again exactly as before.
    #[must_use]
    pub(super) fn repeats(&self) -> usize {
        let mut seen: Vec<_> = self.actions.iter().map(|a| a.fingerprint).collect();
        seen.sort_unstable();
        seen.windows(2).filter(|w| w[0] == w[1]).count()
    }

    #[must_use]
    pub(super) fn errors(&self) -> usize {
        self.actions.iter().filter(|a| a.error.is_some()).count()
    }
}

/// Tools tell agents apart best; then the head of the instructions, masked because dates and names are put into them.
fn family(t: &Transcript) -> u64 {
    let mut tools: Vec<&str> = t.tools.iter().map(|t| t.name.as_str()).collect();
    tools.sort_unstable();
    let head = |role| {
        t.messages.iter().find(|m| m.role == role).map(|m| m.text.chars().take(200).collect::<String>())
    };
    let text = match (tools.is_empty(), head(Role::System)) {
        (false, _) => tools.join(","),
        (true, Some(system)) => mask(&system),
        (true, None) => String::new(),
    };
    let digest = Sha256::digest(text);
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// Masks more than a line's worth: the last part of long instructions often holds the task itself.
fn mask_long(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let part = |from: usize, to: usize| mask(&chars[from..to].iter().collect::<String>());
    if chars.len() <= 2 * TEXT {
        return text.lines().map(mask).collect::<Vec<_>>().join(" ");
    }
    format!("{} {}", part(chars.len() - TEXT, chars.len()), part(0, TEXT))
}
