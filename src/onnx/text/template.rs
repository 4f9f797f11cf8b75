use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::{Environment, Error, ErrorKind, Value as Jinja};
use minijinja_contrib::pycompat::unknown_method_callback;
use regex::Regex;
use serde_json::{Map, Value};

use super::{TextError, python};

/// The model's chat template (Jinja). Cheap to clone.
///
/// Rendered as transformers do (`render_jinja_template` in `chat_template_utils.py`): blocks trimmed, Python's methods on
/// strings and lists, `tojson` with Python's separators, `raise_exception` and `strftime_now`.
#[derive(Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

struct Inner {
    environment: Environment<'static>,
    /// Why there is no template to render. A model can be trained and complete texts without one.
    missing: Option<String>,
    tokens: BTreeMap<String, String>,
}

/// The name that the template has in its environment, and in messages.
const NAME: &str = "chat template";

/// Steps of a template's program; the longest known use some thousands a message. Stops one that would run forever.
const FUEL: u64 = 5_000_000;

impl ChatTemplate {
    /// A template, if there is one, with the texts of special tokens that it may name (`bos_token`, `eos_token`).
    pub(in crate::onnx) fn new(source: Option<&str>, tokens: BTreeMap<String, String>) -> Self {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_formatter(python::format);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", python::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        let missing = match source {
            None => Some("the model has no chat template".to_owned()),
            Some(source) => environment
                .add_template_owned(NAME, without_generation_marks(source))
                .err()
                .map(|e| format!("the model's chat template cannot be read: {}", describe(&e))),
        };
        Self { inner: Arc::new(Inner { environment, missing, tokens }) }
    }

    /// The prompt for OpenAI-shaped messages; `tools` as in a request, or `Value::Null`. Models that can think aloud are told
    /// not to (`enable_thinking`): their answers are what is recorded, learned and compared.
    ///
    /// # Errors
    /// What the template itself refuses (`raise_exception`), or fails at; and where the model has none.
    pub fn render(
        &self,
        messages: &[Value],
        tools: &Value,
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        self.render_with(messages, tools, add_generation_prompt, &Map::new())
    }

    /// As [`render`](Self::render), with settings that the template knows by name.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_with(
        &self,
        messages: &[Value],
        tools: &Value,
        add_generation_prompt: bool,
        settings: &Map<String, Value>,
    ) -> Result<String, TextError> {
        if let Some(missing) = &self.inner.missing {
            return Err(TextError(missing.clone()));
        }
        let mut context: BTreeMap<&str, Jinja> = self
            .inner
            .tokens
            .iter()
            .map(|(name, text)| (name.as_str(), Jinja::from(text.as_str())))
            .collect();
        context.insert("enable_thinking", Jinja::from(false));
        context.extend(settings.iter().map(|(name, value)| (name.as_str(), Jinja::from_serialize(value))));
        context.insert("messages", Jinja::from_serialize(messages));
        context.insert("tools", Jinja::from_serialize(tools));
        context.insert("documents", Jinja::from(()));
        context.insert("add_generation_prompt", Jinja::from(add_generation_prompt));
        let template = self.inner.environment.get_template(NAME);
        template
            .and_then(|template| template.render(context))
            .map_err(|e| TextError(format!("the chat template: {}", describe(&e))))
    }
}

/// An error's own words, or those of what lies beneath.
fn describe(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line().filter(|_| error.kind() != ErrorKind::InvalidOperation) {
        Some(line) => format!("{detail} (line {line})"),
        None => detail,
    }
}

/// Marks of answers for training, which transformers know and Jinja does not: what is between them is kept.
fn without_generation_marks(source: &str) -> String {
    let mark = Regex::new(r"\{%(-?)\s*(end)?generation\s*(-?)%\}").expect("a fixed pattern");
    let instead = |found: &regex::Captures<'_>| {
        let statement = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {statement} {}%}}", &found[1], &found[3])
    };
    mark.replace_all(source, instead).into_owned()
}

fn raise_exception(message: String) -> Result<Jinja, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time, in a format of C's `strftime`.
fn strftime_now(format: String) -> Result<String, Error> {
    use std::fmt::Write;
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(&format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: no format {format:?}"))
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(source: &str, messages: &Value, tools: &Value) -> Result<String, String> {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let template = ChatTemplate::new(Some(source), tokens.into());
        template.render(messages.as_array().unwrap(), tools, true).map_err(|e| e.0)
    }

    #[test]
    fn what_a_template_raises_is_the_error() {
        let source = "{{ raise_exception('Roles must alternate, ' + messages[0].role) }}";
        let error = rendered(source, &json!([{"role": "user"}]), &Value::Null).unwrap_err();
        assert_eq!(error, "the chat template: Roles must alternate, user");
    }

    #[test]
    fn a_broken_template_fails_when_it_is_rendered_and_not_before() {
        let error = rendered("{% for %}", &json!([]), &Value::Null).unwrap_err();
        assert!(error.contains("cannot be read"), "{error}");
        let none = ChatTemplate::new(None, BTreeMap::new());
        assert_eq!(none.render(&[], &Value::Null, true).unwrap_err().0, "the model has no chat template");
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let source = "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}";
        assert!(rendered(source, &json!([]), &Value::Null).is_err());
    }

    #[test]
    fn marks_of_answers_change_nothing() {
        let source = "a{%- generation -%}  b  {%- endgeneration %}c";
        assert_eq!(rendered(source, &json!([]), &Value::Null).unwrap(), "abc");
    }

    #[test]
    fn models_that_can_think_are_told_not_to_unless_they_are_asked() {
        let source = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{{ messages }}";
        let template = ChatTemplate::new(Some(source), BTreeMap::new());
        assert_eq!(template.render(&[], &Value::Null, true).unwrap(), "<think></think>[]");
        let settings = json!({"enable_thinking": true, "messages": "others"});
        let settings = settings.as_object().unwrap();
        assert_eq!(template.render_with(&[], &Value::Null, true, settings).unwrap(), "[]");
    }

    #[test]
    fn time_is_there_and_a_wrong_format_no_panic() {
        let year = rendered("{{ strftime_now('%Y') }}", &json!([]), &Value::Null).unwrap();
        assert!(year.starts_with("20") && year.len() == 4, "{year}");
        assert!(rendered("{{ strftime_now('%!') }}", &json!([]), &Value::Null).is_err());
    }
}
