//! Chained hashes of conversations: two conversations are equal up to a message when their chains are equal there.
//!
//! Hashed of a message: role, trimmed text, tool calls (id, name, arguments parsed and printed with sorted keys) and the
//! id of the call that it answers. Left out: names and reasoning, which clients drop or add when they send an answer
//! back; system messages, which often hold the date and are compared apart.

use sha2::{Digest, Sha256};

use crate::model::{Message, Role};
use crate::store::Chain;
use crate::wire::canonical_json;

/// Every conversation starts from this; the number changes when the recipe does.
const START: Chain = *b"conversation v1\0";

/// The chains of a conversation.
pub struct Chains {
    /// After each message that is not a system message, in order: (its role, the chain).
    pub after: Vec<(Role, Chain)>,
    /// Of all system messages; none where there is none.
    pub system: Option<Chain>,
}

/// The chains of the messages of a request.
pub fn of(messages: &[Message]) -> Chains {
    let mut chain = START;
    let mut system = None;
    let mut after = Vec::with_capacity(messages.len());
    for message in messages {
        if message.role == Role::System {
            system = Some(extend(&system.unwrap_or(START), message));
        } else {
            chain = extend(&chain, message);
            after.push((message.role, chain));
        }
    }
    Chains { after, system }
}

impl Chains {
    /// The chain of the whole conversation.
    pub fn whole(&self) -> Chain {
        self.after.last().map_or(START, |(_, chain)| *chain)
    }
}

/// The chain of a conversation that ends in `chain`, with one more message.
pub fn extend(chain: &Chain, message: &Message) -> Chain {
    let mut hash = Sha256::new();
    hash.update(chain);
    // Lengths keep neighbouring fields apart.
    let mut field = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    field(message.role.as_str());
    field(message.text.trim());
    for call in &message.tool_calls {
        field(&call.id);
        field(&call.name);
        field(&canonical_json(&call.arguments));
    }
    field(message.tool_call_id.as_deref().unwrap_or_default());
    let mut out = Chain::default();
    out.copy_from_slice(&hash.finalize()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ToolCall;

    fn call(arguments: &str) -> Message {
        let tool_calls = vec![ToolCall { id: "c1".into(), name: "f".into(), arguments: arguments.into() }];
        Message { role: Role::Assistant, tool_calls, ..Message::default() }
    }

    #[test]
    fn arguments_printed_another_way_are_the_same() {
        assert_eq!(
            extend(&START, &call(r#"{"a": 1, "b": [2]}"#)),
            extend(&START, &call(r#"{"b":[2],"a":1}"#))
        );
        assert_ne!(extend(&START, &call(r#"{"a":1}"#)), extend(&START, &call(r#"{"a":2}"#)));
    }

    #[test]
    fn names_and_reasoning_do_not_matter() {
        let plain = Message { role: Role::Assistant, text: "yes".into(), ..Message::default() };
        let adorned = Message {
            text: " yes\n".into(),
            name: Some("planner".into()),
            reasoning: Some("hm".into()),
            ..plain.clone()
        };
        assert_eq!(extend(&START, &plain), extend(&START, &adorned));
    }

    #[test]
    fn system_messages_are_compared_apart() {
        let user = Message { text: "hi".into(), ..Message::default() };
        let system = |text: &str| Message { role: Role::System, text: text.into(), ..Message::default() };
        let monday = of(&[system("Today is Monday"), user.clone()]);
        let tuesday = of(&[system("Today is Tuesday"), user]);
        assert_eq!(monday.whole(), tuesday.whole());
        assert_ne!(monday.system, tuesday.system);
    }
}
