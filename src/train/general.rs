//! What has nothing to do with any job: text that keeps a model what it is, and text that shows whether it still is.
//!
//! In: files beside this one, written for this purpose. Out: passages and chats to be replayed under a divergence to the
//! base model, other passages for perplexity, and questions with answers that can be checked.
//!
//! Always true: no passage is both replayed and measured.

use std::sync::LazyLock;

use super::example::{Example, Goal};
use crate::onnx::text::TextError;

/// Answers to [`questions`] are read up to this many tokens.
pub const ANSWER_TOKENS: usize = 32;

/// Asked before and after a training; unrelated to any job.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Question {
    pub question: String,
    /// Words in lower case of which one has to be in the answer.
    pub answers: Vec<String>,
}

impl Question {
    /// Whether an answer has one of the expected words in it, as a word of its own, in whatever case.
    ///
    /// An answer in the form of the job that was trained (`{"capital": "Paris"}`) is not what was asked for.
    #[must_use]
    pub fn answered_by(&self, text: &str) -> bool {
        if text.trim_start().starts_with(['{', '[']) {
            return false;
        }
        let text = text.to_lowercase();
        let mut words = text.split(|c: char| !c.is_alphanumeric());
        words.any(|word| self.answers.iter().any(|a| a == word))
    }
}

/// Passages of a few sentences to be replayed, each in a register of its own.
pub fn passages() -> impl Iterator<Item = &'static str> {
    include_str!("general/replay_texts.txt").lines().filter(|line| !line.is_empty())
}

/// Questions and answers to be replayed as chats.
#[must_use]
pub fn chats() -> &'static [(String, String)] {
    static CHATS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
        serde_json::from_str(include_str!("general/replay_chats.json"))
            .expect("the file holds pairs of strings")
    });
    &CHATS
}

/// Passages for perplexity: encyclopaedic, narrative, news, instructions, dialogue, letter.
pub fn measured() -> impl Iterator<Item = &'static str> {
    include_str!("general/held.txt").split("\n\n").map(str::trim).filter(|passage| !passage.is_empty())
}

/// Questions on what everybody knows.
#[must_use]
pub fn questions() -> &'static [Question] {
    static QUESTIONS: LazyLock<Vec<Question>> = LazyLock::new(|| {
        serde_json::from_str(include_str!("general/questions.json")).expect("the file holds questions")
    });
    &QUESTIONS
}

/// Sequences for perplexity, which is e to the mean loss of all of their tokens but the first ones.
///
/// # Errors
/// When the tokenizer fails.
pub fn perplexity(encode: impl Fn(&str) -> Result<Vec<u32>, TextError>) -> Result<Vec<Example>, TextError> {
    measured().map(|passage| Ok(whole(encode(passage)?, Goal::Tokens, 1.0))).collect()
}

/// Sequences to be trained towards what the base model says of them: chats, as `chat` renders a question and its answer,
/// and passages, in turn. Every token but the first counts `weight`, as against 1 for a token of an answer.
///
/// # Errors
/// When the template or the tokenizer fails.
pub fn replay(
    weight: f32,
    encode: impl Fn(&str) -> Result<Vec<u32>, TextError>,
    chat: impl Fn(&str, &str) -> Result<String, TextError>,
) -> Result<Vec<Example>, TextError> {
    let mut passages = passages();
    let mut examples = Vec::new();
    for (question, answer) in chats() {
        let rendered = chat(question, answer)?;
        // The line break after the end of a turn is nobody's answer.
        examples.push(whole(encode(rendered.trim_end())?, Goal::Base, weight));
        if let Some(passage) = passages.next() {
            examples.push(whole(encode(passage)?, Goal::Base, weight));
        }
    }
    for passage in passages {
        examples.push(whole(encode(passage)?, Goal::Base, weight));
    }
    Ok(examples)
}

fn whole(tokens: Vec<u32>, goal: Goal, weight: f32) -> Example {
    let mut weights = vec![weight; tokens.len()];
    if let Some(first) = weights.first_mut() {
        *first = 0.0;
    }
    Example { tokens, weights, goal }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn bytes(text: &str) -> Result<Vec<u32>, TextError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    /// Runs of six words.
    fn runs(text: &str) -> HashSet<String> {
        let words: Vec<String> = text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|w| !w.is_empty())
            .map(str::to_lowercase)
            .collect();
        words.windows(6).map(|run| run.join(" ")).collect()
    }

    #[test]
    fn what_is_replayed_and_what_is_measured_share_no_run_of_six_words() {
        let replayed: HashSet<String> = passages()
            .map(runs)
            .chain(chats().iter().flat_map(|(q, a)| [runs(q), runs(a)]))
            .flatten()
            .collect();
        for passage in measured() {
            assert!(runs(passage).is_disjoint(&replayed), "{passage}");
        }
        for asked in questions() {
            assert!(chats().iter().all(|(q, _)| *q != asked.question), "{} is replayed", asked.question);
        }
    }

    #[test]
    fn there_is_enough_of_everything() {
        assert!(passages().count() >= 20 && chats().len() >= 24 && questions().len() >= 12);
        assert!(measured().count() >= 8);
        let words: usize = measured().map(|p| p.split_whitespace().count()).sum();
        assert!((1_300..2_000).contains(&words), "{words} words");
    }

    #[test]
    fn an_answer_counts_when_it_names_the_thing_in_words() {
        let capital = &questions()[0];
        assert!(capital.answered_by("The capital of France is Paris."));
        assert!(!capital.answered_by("{\"capital\": \"Paris\"}"));
        assert!(!capital.answered_by("Parisian cooking is famous."));
        assert!(questions().iter().all(|q| q.answers.iter().all(|a| *a == a.to_lowercase())));
    }

    #[test]
    fn replayed_tokens_follow_the_base_and_measured_ones_the_text() {
        let chat = |q: &str, a: &str| Ok(format!("{q}|{a}\n"));
        let replayed = replay(0.5, bytes, chat).expect("bytes");
        assert_eq!(replayed.len(), passages().count() + chats().len());
        assert!(replayed.iter().all(|e| e.goal == Goal::Base && e.weights[0] == 0.0 && e.weights[1] == 0.5));
        let measured = perplexity(bytes).expect("bytes");
        assert!(measured.iter().all(|e| e.goal == Goal::Tokens && e.weights[1] == 1.0));
        assert!(measured.iter().all(|e| e.tokens.len() == e.weights.len()));
    }
}
