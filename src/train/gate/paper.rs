//! The questions that base and candidate are asked.

use serde_json::{Value, json};

use super::super::Example;
use super::super::chat::Chat;
use super::super::tokens::{Language, LeftOut, example, question};
use super::marks::{f1, words};

/// What is asked in an examination.
#[derive(Clone, Debug, Default)]
pub struct Paper {
    /// The right answers, as text.
    pub answers: Vec<String>,
    /// The plain prompt first, which the candidate is asked, too.
    pub promptings: Vec<Prompting>,
    /// General text, every token weighted.
    pub general: Vec<Example>,
}

/// The same questions, asked in one way.
#[derive(Clone, Debug)]
pub struct Prompting {
    /// In words.
    pub name: String,
    pub held_out: Vec<Example>,
    /// As many as there are answers.
    pub prompts: Vec<Vec<u32>>,
}

/// What the plain prompt is called.
const PLAIN: &str = "its plain prompt";

/// Where worked examples stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the question, as messages.
    Messages,
    /// As text in the system message.
    System,
}

/// The paper of held-out conversations, `most` tokens being left for an answer. The base is also asked with one
/// conversation of the training side, `worked`, shown in the prompt as messages or as text in the system message, and with
/// all of them as messages: which of these helps depends on the model. Conversations that cannot be asked in all ways are
/// in none, so that what is compared was asked of all; why is returned.
#[must_use]
pub fn paper(
    language: &dyn Language,
    held_out: &[Chat],
    worked: &[Chat],
    context: usize,
    most: usize,
) -> (Paper, Vec<LeftOut>) {
    let mut ways: Vec<(String, &[Chat], Place)> = vec![(PLAIN.into(), &[], Place::Messages)];
    if let Some(first) = worked.get(..1) {
        ways.push(("its prompt with a worked example".into(), first, Place::Messages));
        ways.push(("its prompt with a worked example in the system message".into(), first, Place::System));
    }
    if worked.len() > 1 {
        ways.push((format!("its prompt with {} worked examples", worked.len()), worked, Place::Messages));
    }
    let named =
        |(name, ..): &(String, _, _)| Prompting { name: name.clone(), held_out: vec![], prompts: vec![] };
    let mut paper = Paper { promptings: ways.iter().map(named).collect(), ..Paper::default() };
    let mut left_out = Vec::new();
    for chat in held_out {
        let ask = |(_, examples, place): &(String, &[Chat], Place)| -> Result<_, LeftOut> {
            // The last that is put in front comes first.
            let shown =
                examples.iter().rev().fold(chat.clone(), |chat, example| shown(&chat, example, *place));
            Ok((example(language, &shown, context)?, question(language, &shown, context, most)?))
        };
        match ways.iter().map(ask).collect::<Result<Vec<_>, _>>() {
            Ok(asked) => {
                paper.answers.push(asked[0].1.answer.clone());
                for (prompting, (example, question)) in paper.promptings.iter_mut().zip(asked) {
                    prompting.held_out.push(example);
                    prompting.prompts.push(question.prompt);
                }
            }
            Err(why) => left_out.push(why),
        }
    }
    (paper, left_out)
}

/// Conversations looked at when worked examples are chosen.
const LOOKED_AT: usize = 100;

/// Up to `count` conversations to be shown as worked examples: short ones, whose answers differ as much as they can.
#[must_use]
pub fn worked(training: &[Chat], count: usize) -> Vec<Chat> {
    let mut short: Vec<&Chat> = training.iter().collect();
    short.sort_by_key(|chat| {
        chat.messages.iter().map(|m| m["content"].as_str().map_or(0, str::len)).sum::<usize>()
    });
    short.truncate(LOOKED_AT.max(short.len() / 2));
    let answer =
        |chat: &Chat| words(chat.messages.last().and_then(|m| m["content"].as_str()).unwrap_or_default());
    let answers: Vec<Vec<String>> = short.iter().map(|chat| answer(chat)).collect();
    // Of typical length: the very shortest may say nothing.
    let mut chosen: Vec<usize> = short.get(short.len() / 2).map(|_| short.len() / 2).into_iter().collect();
    while chosen.len() < count.min(short.len()) {
        let alike = |i: usize| chosen.iter().map(|c| f1(&answers[i], &answers[*c])).fold(0.0, f64::max);
        let left = (0..short.len()).filter(|i| !chosen.contains(i));
        let Some(next) = left.min_by(|a, b| alike(*a).total_cmp(&alike(*b))) else { break };
        chosen.push(next);
    }
    chosen.truncate(count);
    chosen.into_iter().map(|i| short[i].clone()).collect()
}

/// A conversation that shows another one before its own first question.
fn shown(chat: &Chat, example: &Chat, place: Place) -> Chat {
    let is_system = |m: &Value| matches!(m["role"].as_str(), Some("system" | "developer"));
    let mut messages = chat.messages.clone();
    let at = messages.iter().take_while(|m| is_system(m)).count();
    let last = example.learned().last().map_or(0, |last| last + 1);
    let turns: Vec<Value> = example.plain()[..last].iter().filter(|m| !is_system(m)).cloned().collect();
    if place == Place::Messages {
        let turns = turns.into_iter().map(|mut m| {
            if m["role"] == "assistant" {
                m["weight"] = json!(0);
            }
            m
        });
        messages.splice(at..at, turns);
        return Chat { messages, tools: chat.tools.clone() };
    }
    let mut text = String::from("Example:");
    for turn in &turns {
        let said = turn["content"].as_str().unwrap_or_default();
        text += &format!("\n{}: {said}", turn["role"].as_str().unwrap_or_default());
        if !turn["tool_calls"].is_null() {
            text += &turn["tool_calls"].to_string();
        }
    }
    match messages.first_mut().filter(|m| is_system(m)) {
        Some(system) => {
            let own = system["content"].as_str().unwrap_or_default();
            system["content"] = json!(format!("{own}\n\n{text}"));
        }
        None => messages.insert(0, json!({"role": "system", "content": text})),
    }
    Chat { messages, tools: chat.tools.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::super::tokens::stub::Bytes;
    use super::*;

    fn chat(question: &str, answer: &str) -> Chat {
        let messages = vec![
            json!({"role": "system", "content": "s"}),
            json!({"role": "user", "content": question}),
            json!({"role": "assistant", "content": answer}),
        ];
        Chat { messages, tools: Value::Null }
    }

    #[test]
    fn the_base_is_asked_with_worked_examples_in_every_place() {
        let shown = [chat("w", "x"), chat("v", "y")];
        let long = chat(&"long".repeat(40), "b");
        let (paper, left_out) = paper(&Bytes, &[chat("q", "a"), long], &shown, 110, 8);
        assert_eq!((paper.answers.as_slice(), left_out.len()), (["a".to_owned()].as_slice(), 1));
        let asked: Vec<String> =
            paper.promptings.iter().map(|p| Bytes.decode(&p.prompts[0]).expect("text")).collect();
        assert_eq!(asked[0], "[system:s\n[user:q\n[assistant:");
        assert_eq!(asked[1], "[system:s\n[user:w\n[assistant:x\n[user:q\n[assistant:");
        assert_eq!(asked[2], "[system:s\n\nExample:\nuser: w\nassistant: x\n[user:q\n[assistant:");
        assert_eq!(asked[3], "[system:s\n[user:w\n[assistant:x\n[user:v\n[assistant:y\n[user:q\n[assistant:");
        for prompting in &paper.promptings {
            let counted = prompting.held_out[0].weights.iter().filter(|w| **w > 0.0).count();
            assert_eq!(counted, 2, "only the own answer and its end: {}", prompting.name);
        }
    }

    #[test]
    fn worked_examples_have_answers_that_differ() {
        let training: Vec<Chat> =
            ["billing", "billing", "delivery", "billing", "account"].map(|a| chat("q", a)).into();
        let chosen = worked(&training, 3);
        let mut answers: Vec<&str> =
            chosen.iter().map(|c| c.messages[2]["content"].as_str().expect("text")).collect();
        answers.sort_unstable();
        assert_eq!(answers, ["account", "billing", "delivery"]);
        assert!(worked(&[], 3).is_empty() && worked(&training, 0).is_empty());
    }
}
