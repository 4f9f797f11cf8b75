//! Answers that must follow a JSON schema.
//!
//! In: a schema, and the tokens that were said so far. Out: the tokens that may come next.
//!
//! Always true: what compiling and following a schema may cost is bounded; a schema that cannot be followed is refused
//! with the reason before anything is generated.

use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::text::Text;

/// Compiles schemas for one model. Its table of tokens is made on first use: half a second of work that most servers
/// are never asked for.
pub(crate) struct Grammars {
    text: Arc<dyn Text>,
    factory: OnceLock<Result<ParserFactory, String>>,
}

/// Follows one answer.
#[derive(Clone)]
pub(crate) struct Grammar(Matcher);

/// A schema's text may have this many bytes; those of large APIs have tens of thousands.
const LARGEST_SCHEMA: usize = 256 << 10;

/// White space between tokens of JSON: a model that is free to put any amount there may never come to an end. One
/// blank, or a new line with its indentation.
const WHITE_SPACE: &str = r"\x20|\x0A\x20{0,32}";

impl Grammars {
    pub(crate) fn new(text: Arc<dyn Text>) -> Self {
        Self { text, factory: OnceLock::new() }
    }

    /// Compiles a schema. Takes milliseconds, for a large one up to about a second: not for async threads.
    ///
    /// # Errors
    /// The reason why answers cannot be held to it.
    pub(crate) fn compile(&self, schema: &Value) -> Result<Grammar, String> {
        let size = schema.to_string().len();
        if size > LARGEST_SCHEMA {
            return Err(format!("the schema has {size} bytes, at most {LARGEST_SCHEMA} are taken"));
        }
        let factory = self.factory.get_or_init(|| factory(&*self.text)).as_ref().map_err(Clone::clone)?;
        let mut schema = schema.clone();
        match &mut schema {
            // Replaces what the schema brings: such options could lift the bounds.
            Value::Object(map) => {
                map.insert("x-guidance".to_owned(), json!({"whitespace_pattern": WHITE_SPACE}));
            }
            Value::Bool(true) => {}
            other => return Err(format!("a JSON schema is an object, not {other}")),
        }
        let mut matcher = Matcher::new(factory.create_parser(TopLevelGrammar::from_json_schema(schema)));
        // What is impossible shows at the first token.
        matcher.compute_mask().map_err(|error| first_line(&error.to_string()))?;
        Ok(Grammar(matcher))
    }
}

impl Grammar {
    /// One more answer under the same grammar; shares nothing that would have to be waited for.
    pub(crate) fn another(&self) -> Self {
        Self(self.0.deep_clone())
    }

    /// The tokens that may come next; those that end the answer among them where it may end.
    ///
    /// # Errors
    /// When following the grammar here costs more than may be.
    pub(crate) fn allowed(&mut self) -> Result<SimpleVob, String> {
        self.0.compute_mask_or_eos().map_err(|error| first_line(&error.to_string()))
    }

    /// Goes on by a token that was allowed; true when nothing may come after it.
    ///
    /// # Errors
    /// As [`allowed`](Self::allowed).
    pub(crate) fn say(&mut self, token: u32) -> Result<bool, String> {
        self.0.consume_token(token).map_err(|error| first_line(&error.to_string()))?;
        Ok(self.0.is_stopped())
    }
}

fn factory(text: &dyn Text) -> Result<ParserFactory, String> {
    let size = u32::try_from(text.vocabulary()).map_err(|_| "the vocabulary is too large".to_owned())?;
    let stops: Vec<u32> = text.stops().iter().copied().filter(|token| *token < size).collect();
    let &[first, ..] = stops.as_slice() else {
        return Err("the model has no token that ends an answer".into());
    };
    let words: Vec<Vec<u8>> = (0..size).map(|token| text.bytes(token).to_vec()).collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&stops);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
    factory.quiet();
    // The whole of parser state and grammar is nothing for a client.
    factory.limits_mut().verbose_errors = false;
    Ok(factory)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::scripted::{END, ScriptedText};

    fn grammars() -> Grammars {
        Grammars::new(Arc::new(ScriptedText))
    }

    #[test]
    fn only_what_the_schema_allows_may_come_next() {
        let mut grammar = grammars().compile(&json!({"type": "boolean"})).unwrap();
        let allowed = |grammar: &mut Grammar| {
            let mask = grammar.allowed().unwrap();
            (0..256).filter(|token| mask.is_allowed(*token)).filter_map(char::from_u32).collect::<String>()
        };
        assert_eq!(allowed(&mut grammar), "ft");
        for letter in "tru".bytes() {
            assert!(!grammar.say(letter.into()).unwrap());
            assert!(!grammar.allowed().unwrap().is_allowed(END));
        }
        assert!(grammar.say(b'e'.into()).unwrap(), "nothing may come after it");
    }

    #[test]
    fn answers_under_one_schema_do_not_disturb_each_other() {
        let first = grammars().compile(&json!({"enum": ["ab", "cd"]})).unwrap();
        let (mut a, mut b) = (first.another(), first.another());
        for letter in "\"a".bytes() {
            a.say(letter.into()).unwrap();
        }
        b.say(b'"'.into()).unwrap();
        assert!(b.allowed().unwrap().is_allowed(b'c'.into()));
        assert!(!a.allowed().unwrap().is_allowed(b'c'.into()));
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_the_reason() {
        let grammars = grammars();
        let refused =
            |schema: Value| grammars.compile(&schema).err().unwrap_or_else(|| panic!("{schema} was taken"));
        assert!(refused(json!({"type": "wish"})).contains("wish"));
        assert!(refused(json!([1])).contains("object"));
        assert!(refused(json!({"$ref": "https://example.com/x"})).contains("example.com"));
        refused(json!({"type": "string", "pattern": "("}));
        refused(json!({"type": "integer", "minimum": 5, "maximum": 4}));
        assert!(refused(json!({"enum": ["x".repeat(LARGEST_SCHEMA)]})).contains("bytes"));
    }
}
