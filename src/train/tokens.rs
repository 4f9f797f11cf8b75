//! From conversations to tokens with weights, as the model reads them when it serves.

use serde_json::Value;

use super::chat::Chat;
use super::{Example, Goal};
use crate::onnx::checkpoint::Checkpoint;
use crate::onnx::text::TextError;

/// What turns chats into tokens: a model's template and tokenizer.
pub trait Language {
    /// As [`ChatTemplate::render`](crate::onnx::text::ChatTemplate::render).
    ///
    /// # Errors
    /// What the template refuses.
    fn render(&self, messages: &[Value], tools: &Value, prompt: bool) -> Result<String, TextError>;

    /// Tokens of a text in which special tokens are recognised, none added.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError>;

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    fn decode(&self, tokens: &[u32]) -> Result<String, TextError>;

    /// Tokens that end an answer.
    fn stops(&self) -> &[u32];
}

impl Language for Checkpoint {
    fn render(&self, messages: &[Value], tools: &Value, prompt: bool) -> Result<String, TextError> {
        self.template.render(messages, tools, prompt)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(text)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, TextError> {
        self.tokenizer.decode(tokens)
    }

    fn stops(&self) -> &[u32] {
        self.tokenizer.stops()
    }
}

/// Why a conversation makes no example.
#[derive(Debug, thiserror::Error)]
pub enum LeftOut {
    #[error("the chat template refuses it: {0}")]
    Refused(#[from] TextError),

    #[error(
        "the chat template prints a turn in another way once it is answered, so that its answer cannot be told"
    )]
    Unstable,

    #[error("it has {tokens} tokens, more than {context}")]
    TooLong { tokens: usize, context: usize },

    #[error("nothing in it is to be learned")]
    Nothing,
}

/// The tokens of a conversation up to the last answer that is learned; only answers count, each with the token that ends
/// it. Where the template prints an answer in another way once the conversation has gone on, the last one alone counts: the
/// others are not what the model would have said.
///
/// Prompts and answers are encoded apart, for a server encodes a prompt and then adds the answer's tokens one by one.
///
/// # Errors
/// Why it makes none.
pub fn example(language: &dyn Language, chat: &Chat, context: usize) -> Result<Example, LeftOut> {
    let learned = chat.learned();
    match of_answers(language, chat, &learned, context) {
        Err(LeftOut::Unstable) if learned.len() > 1 => {
            of_answers(language, chat, &learned[learned.len() - 1..], context)
        }
        made => made,
    }
}

fn of_answers(
    language: &dyn Language,
    chat: &Chat,
    learned: &[usize],
    context: usize,
) -> Result<Example, LeftOut> {
    let messages = chat.plain();
    let last = *learned.last().ok_or(LeftOut::Nothing)?;
    let whole = language.render(&messages[..=last], &chat.tools, false)?;
    let (mut tokens, mut weights, mut at) = (Vec::new(), Vec::new(), 0);
    for &turn in learned {
        let Turn { prompt, end } = Turn::of(language, &messages, &chat.tools, turn)?;
        if !whole.starts_with(&end) || prompt.len() < at {
            return Err(LeftOut::Unstable);
        }
        let asked = language.encode(&prompt[at..])?;
        weights.resize(weights.len() + asked.len(), 0.0);
        tokens.extend(asked);
        let mut answer = language.encode(&end[prompt.len()..])?;
        let ending = answer.iter().rposition(|token| language.stops().contains(token));
        match (ending, language.stops().first()) {
            // The line break that many templates print after it is not the model's.
            (Some(ending), _) if turn == last => answer.truncate(ending + 1),
            (None, Some(stop)) if turn == last => answer.push(*stop),
            _ => {}
        }
        let counted = ending.map_or(answer.len(), |ending| ending + 1);
        weights.extend((0..answer.len()).map(|i| if i < counted { 1.0 } else { 0.0 }));
        tokens.extend(answer);
        at = end.len();
    }
    if tokens.len() > context {
        return Err(LeftOut::TooLong { tokens: tokens.len(), context });
    }
    // Nothing comes before the first token that it could be told from.
    if let Some(first) = weights.first_mut() {
        *first = 0.0;
    }
    Ok(Example { tokens, weights, goal: Goal::Tokens })
}

/// The last learned answer of a conversation as a question: what the model is asked, and what it should say.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub prompt: Vec<u32>,
    pub answer: String,
}

/// # Errors
/// Why it makes none; `most` tokens are left for the answer.
pub fn question(
    language: &dyn Language,
    chat: &Chat,
    context: usize,
    most: usize,
) -> Result<Question, LeftOut> {
    let messages = chat.plain();
    let last = *chat.learned().last().ok_or(LeftOut::Nothing)?;
    let Turn { prompt, end } = Turn::of(language, &messages, &chat.tools, last)?;
    let answer = language.encode(&end[prompt.len()..])?;
    let prompt = language.encode(&prompt)?;
    if prompt.len() + most > context {
        return Err(LeftOut::TooLong { tokens: prompt.len() + most, context });
    }
    Ok(Question { prompt, answer: language.decode(&answer)?.trim().to_owned() })
}

/// A turn of the assistant as the template prints it.
struct Turn {
    /// All before it, and what the template has the model go on from.
    prompt: String,
    /// The same with the answer.
    end: String,
}

impl Turn {
    fn of(language: &dyn Language, messages: &[Value], tools: &Value, at: usize) -> Result<Self, LeftOut> {
        let prompt = language.render(&messages[..at], tools, true)?;
        let end = language.render(&messages[..=at], tools, false)?;
        if end.starts_with(&prompt) { Ok(Self { prompt, end }) } else { Err(LeftOut::Unstable) }
    }
}

#[cfg(test)]
pub(super) mod stub {
    use super::*;

    /// A token a byte; `[role:` begins a turn and `]` ends it, which is the only special token.
    pub struct Bytes;

    pub const STOP: u32 = b']' as u32;

    impl Language for Bytes {
        fn render(&self, messages: &[Value], tools: &Value, prompt: bool) -> Result<String, TextError> {
            let mut out = String::new();
            if let Some(tools) = tools.as_array() {
                out += &format!("[tools:{}]\n", tools.len());
            }
            for m in messages {
                let (role, content) = (m["role"].as_str().unwrap_or_default(), m["content"].as_str());
                if role == "tool" && tools.is_null() {
                    return Err(TextError("a tool spoke, and none was offered".into()));
                }
                let calls = m.get("tool_calls").map(|c| c[0]["function"]["name"].to_string());
                out += &format!("[{role}:{}{}]\n", content.unwrap_or_default(), calls.unwrap_or_default());
            }
            Ok(if prompt { out + "[assistant:" } else { out })
        }

        fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
            Ok(text.bytes().map(u32::from).collect())
        }

        fn decode(&self, tokens: &[u32]) -> Result<String, TextError> {
            let bytes = tokens.iter().filter(|t| **t != STOP).map(|t| u8::try_from(*t).unwrap_or(b'?'));
            Ok(String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned())
        }

        fn stops(&self) -> &[u32] {
            &[STOP]
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::stub::Bytes;
    use super::*;

    fn chat(messages: Value) -> Chat {
        Chat { messages: messages.as_array().expect("a list").clone(), tools: Value::Null }
    }

    fn counted(example: &Example) -> String {
        let text = |t: &u32| char::from(u8::try_from(*t).expect("a byte"));
        example
            .tokens
            .iter()
            .zip(&example.weights)
            .map(|(t, w)| if *w > 0.0 { text(t) } else { '.' })
            .collect()
    }

    #[test]
    fn only_answers_count_each_with_its_end() {
        let chat = chat(json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "r"}, {"role": "assistant", "content": "no"},
            {"role": "user", "content": "never read"},
        ]));
        let example = example(&Bytes, &chat, 100).expect("an example");
        let text = Bytes.decode(&example.tokens).expect("text");
        assert_eq!(text, "[system:s\n[user:q\n[assistant:yes\n[user:r\n[assistant:no");
        assert_eq!(counted(&example).replace('.', ""), "yes]no]");
        assert_eq!(example.tokens.len(), example.weights.len());
    }

    /// As models that can think: an empty thought before the last answer, none before those that came earlier.
    struct Thinking;

    impl Language for Thinking {
        fn render(&self, messages: &[Value], tools: &Value, prompt: bool) -> Result<String, TextError> {
            let mut out = Bytes.render(messages, tools, prompt)?;
            let last = messages.last().is_some_and(|message| message["role"] == "assistant");
            if let Some(at) = out.rfind("[assistant:").filter(|_| prompt || last) {
                out.insert_str(at + "[assistant:".len(), "<>");
            }
            Ok(out)
        }

        fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
            Bytes.encode(text)
        }

        fn decode(&self, tokens: &[u32]) -> Result<String, TextError> {
            Bytes.decode(tokens)
        }

        fn stops(&self) -> &[u32] {
            Bytes.stops()
        }
    }

    #[test]
    fn where_earlier_answers_are_printed_in_another_way_the_last_is_learned() {
        let chat = chat(json!([
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "r"}, {"role": "assistant", "content": "no"},
        ]));
        let example = example(&Thinking, &chat, 100).expect("an example");
        assert_eq!(
            Bytes.decode(&example.tokens).expect("text"),
            "[user:q\n[assistant:yes\n[user:r\n[assistant:<>no"
        );
        assert_eq!(counted(&example).trim_matches('.'), "no]");
        assert_eq!(question(&Thinking, &chat, 100, 10).expect("a question").answer, "no");
    }

    #[test]
    fn an_answer_of_weight_0_is_read_and_not_learned() {
        let chat = chat(json!([
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "yes", "weight": 0},
            {"role": "user", "content": "r"}, {"role": "assistant", "content": "no"},
        ]));
        let example = example(&Bytes, &chat, 100).expect("an example");
        assert!(Bytes.decode(&example.tokens).expect("text").contains("yes"));
        assert_eq!(counted(&example).trim_matches('.'), "no]");
    }

    #[test]
    fn what_is_too_long_or_refused_says_so() {
        let long = chat(json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]));
        let said = example(&Bytes, &long, 10).expect_err("too long").to_string();
        assert!(said.contains("more than 10"), "{said}");
        let tool = chat(json!([{"role": "tool", "content": "q"}, {"role": "assistant", "content": "yes"}]));
        let said = example(&Bytes, &tool, 100).expect_err("refused").to_string();
        assert!(said.contains("none was offered"), "{said}");
    }

    #[test]
    fn tool_calls_are_learned_as_the_template_prints_them() {
        let call = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        let mut chat = chat(json!([
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": call},
        ]));
        chat.tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let example = example(&Bytes, &chat, 100).expect("an example");
        assert_eq!(counted(&example).trim_matches('.'), "\"f\"]");
        let asked = question(&Bytes, &chat, 100, 10).expect("a question");
        assert_eq!(Bytes.decode(&asked.prompt).expect("text"), "[tools:1\n[user:q\n[assistant:");
        assert_eq!(asked.answer, "\"f\"");
    }
}
