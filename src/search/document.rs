use crate::model::{Message, Role, Trajectory, TrajectoryId, Transcript};

/// Characters of one message, and of one trajectory, that are indexed.
const MAX_MESSAGE_CHARS: usize = 8_000;
const MAX_CHARS: usize = 100_000;

/// Characters of the text that is embedded: what embedders read of it.
const MAX_MEANING_CHARS: usize = 1_000;

/// What a trajectory is found by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Document {
    pub id: String,
    pub tenant: String,
    pub app: String,
    pub session: String,
    pub model: String,
    pub task: String,
    /// What was said, called and answered, without the system prompt: it is the same in every trajectory.
    pub text: String,
    pub tools: String,
}

impl Document {
    /// The document of a trajectory. Where its bodies are gone, what its row says must do.
    pub(super) fn of(trajectory: &Trajectory, transcript: Option<&Transcript>) -> Self {
        let messages = transcript.map_or(&[][..], |t| &t.messages);
        let mut tools: Vec<&str> =
            messages.iter().flat_map(|m| &m.tool_calls).map(|c| c.name.as_str()).collect();
        tools.sort_unstable();
        tools.dedup();
        Self {
            id: key(trajectory.id),
            tenant: trajectory.scope.tenant.clone(),
            app: trajectory.scope.app.clone(),
            session: trajectory.session_id.clone().unwrap_or_default(),
            model: trajectory.model.clone().unwrap_or_default(),
            task: trajectory.task.clone(),
            text: conversation(messages),
            tools: tools.join(" "),
        }
    }
}

/// A trajectory's id as the index has it.
pub(super) fn key(id: TrajectoryId) -> String {
    id.to_string()
}

/// What a trajectory is about, for an embedder: its task, and the user's last words where they are others.
pub(super) fn meaning(trajectory: &Trajectory, transcript: Option<&Transcript>) -> String {
    let half = |text: &str| text.chars().take(MAX_MEANING_CHARS / 2).collect::<String>();
    let users =
        || transcript.iter().flat_map(|t| &t.messages).filter(|m| m.role == Role::User && !m.text.is_empty());
    let first = users().next().map_or(trajectory.task.as_str(), |m| m.text.as_str());
    match users().skip(1).last() {
        Some(last) => format!("{}\n{}", half(first), half(&last.text)),
        None => first.chars().take(MAX_MEANING_CHARS).collect(),
    }
}

/// Beginning and end of a conversation, as many messages as fit; the middle of a long one is left out.
fn conversation(messages: &[Message]) -> String {
    let said: Vec<String> =
        messages.iter().filter(|m| m.role != Role::System).map(words_of).filter(|t| !t.is_empty()).collect();
    let lengths: Vec<usize> = said.iter().map(|t| t.chars().count()).collect();
    if lengths.iter().sum::<usize>() <= MAX_CHARS {
        return said.join("\n");
    }
    let fits = |room: usize, lengths: &mut dyn Iterator<Item = &usize>| {
        lengths
            .scan(0, |sum, n| {
                *sum += n;
                Some(*sum)
            })
            .take_while(|sum| *sum <= room)
            .count()
    };
    let head = fits(MAX_CHARS / 2, &mut lengths.iter());
    let tail = fits(MAX_CHARS / 2, &mut lengths[head..].iter().rev());
    let mut kept = said[..head].to_vec();
    kept.extend_from_slice(&said[said.len() - tail..]);
    kept.join("\n")
}

fn words_of(message: &Message) -> String {
    let mut parts = vec![message.text.as_str()];
    parts.extend(message.refusal.as_deref());
    for call in &message.tool_calls {
        parts.extend([call.name.as_str(), call.arguments.as_str()]);
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ").chars().take(MAX_MESSAGE_CHARS).collect()
}
