//! Votes failure where JSON does not follow the schema that was asked for: arguments of calls, the answer itself.

use std::collections::HashMap;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::observe::{ToolResult, last_answer, quote, step_at};
use crate::model::{ToolCall, Transcript, Vote, VoteSource};

const CONFIDENCE: f64 = 0.7;
/// The tool took the arguments anyway.
const ACCEPTED: f64 = 0.55;

/// Schemas come from traffic: nothing is fetched, and patterns run in linear time.
fn compile(schema: &Value) -> Option<Validator> {
    jsonschema::options().offline().with_pattern_options(PatternOptions::regex()).build(schema).ok()
}

/// The last call of some tool has arguments that are no JSON, break its schema, or names a tool that was not offered.
pub(super) fn arguments_vote(t: &Transcript, results: &[ToolResult<'_>]) -> Option<Vote> {
    if t.tools.is_empty() {
        return None;
    }
    let schemas: HashMap<&str, Option<Validator>> =
        t.tools.iter().map(|tool| (tool.name.as_str(), compile(&tool.parameters))).collect();
    let mut broken: Vec<(&str, usize, String, f64)> = Vec::new();
    for (index, call) in
        t.messages.iter().enumerate().flat_map(|(i, m)| m.tool_calls.iter().map(move |c| (i, c)))
    {
        let result = results.iter().find(|r| r.call.is_some_and(|c| std::ptr::eq(c, call)));
        let problem = match schemas.get(call.name.as_str()) {
            Some(schema) => problem_with(call, schema.as_ref()),
            // Tools may come and go between turns, and the upstream has tools of its own: what worked is known.
            None if result.map_or(index + 1 == t.messages.len(), |r| r.failed) => {
                Some("no such tool was offered".into())
            }
            None => None,
        };
        match problem {
            Some(problem) => {
                let accepted = result.is_some_and(|r| !r.failed);
                broken.push((&call.name, index, problem, if accepted { ACCEPTED } else { CONFIDENCE }));
            }
            // A later good call makes up for it; a good call of any tool makes up for an unknown one.
            None => broken.retain(|(name, ..)| *name != call.name && schemas.contains_key(name)),
        }
    }
    let (name, index, problem, confidence) = broken.into_iter().next()?;
    let evidence = format!("The arguments of {name} were wrong and were not corrected: {}", quote(&problem));
    let step = step_at(t, index);
    Some(Vote { source: VoteSource::ArgumentsSchema, value: 0.0, confidence, step, evidence })
}

fn problem_with(call: &ToolCall, schema: Option<&Validator>) -> Option<String> {
    let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    match serde_json::from_str::<Value>(text) {
        Err(error) => Some(format!("no JSON: {error}")),
        Ok(arguments) => first_error(schema?, &arguments),
    }
}

fn first_error(schema: &Validator, value: &Value) -> Option<String> {
    schema.validate(value).err().map(|e| match e.instance_path().to_string() {
        path if path.is_empty() => e.to_string(),
        path => format!("{path}: {e}"),
    })
}

/// The last answer is not what the request's schema asks for.
pub(super) fn output_vote(t: &Transcript) -> Option<Vote> {
    let schema = t.output_schema.as_ref()?;
    let (index, answer) = last_answer(t)?;
    // Turns of tools are not the output; what was refused or cut has its own vote.
    if !answer.tool_calls.is_empty() || answer.refusal.is_some() || answer.text.trim().is_empty() {
        return None;
    }
    let problem = match serde_json::from_str::<Value>(unfenced(&answer.text)) {
        Err(error) => format!("no JSON: {error}"),
        Ok(output) => first_error(&compile(schema)?, &output)?,
    };
    Some(Vote {
        source: VoteSource::OutputSchema,
        value: 0.0,
        confidence: CONFIDENCE,
        step: step_at(t, index),
        evidence: format!("The answer does not follow the requested schema: {}", quote(&problem)),
    })
}

/// Without a Markdown fence around it: apps that ask for JSON strip it.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```json").or_else(|| text.strip_prefix("```"));
    inner.and_then(|t| t.strip_suffix("```")).unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{observe::tool_results, script::Script};
    use super::*;

    fn offered() -> Script {
        let id = json!({"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]});
        Script::new().tool("find", id).tool("pay", Value::Null)
    }

    fn vote_on(script: Script) -> Option<Vote> {
        let t = script.done();
        arguments_vote(&t, &tool_results(&t))
    }

    #[test]
    fn broken_arguments_vote() {
        for arguments in [r#"{"id": "x"}"#, "{}", "", r#"{"id": 1"#, "[1]"] {
            let v = vote_on(offered().answer("Hm").call("find", arguments)).expect("a vote");
            assert_eq!((v.step, v.confidence), (Some(1), CONFIDENCE), "{arguments}");
        }
    }

    #[test]
    fn good_or_unchecked_arguments_do_not_vote() {
        assert_eq!(vote_on(offered().call("find", r#"{"id": 1}"#)), None);
        assert_eq!(vote_on(offered().call("pay", "")), None);
        assert_eq!(vote_on(Script::new().call("find", "{")), None, "nothing was offered");
    }

    #[test]
    fn corrected_arguments_do_not_vote() {
        let s = offered().call("find", "{}").result("Error: id?").call("find", r#"{"id": 1}"#).result("ok");
        assert_eq!(vote_on(s), None);
    }

    #[test]
    fn arguments_that_the_tool_took_vote_weakly() {
        assert_eq!(
            vote_on(offered().call("find", "{}").result("found")).expect("a vote").confidence,
            ACCEPTED
        );
    }

    #[test]
    fn an_unknown_tool_votes_unless_it_worked() {
        assert!(vote_on(offered().call("fly", "{}").result("Error: unknown tool")).is_some());
        assert!(vote_on(offered().call("fly", "{}")).is_some());
        assert_eq!(vote_on(offered().call("web_search", "{}").result("3 pages").answer("Here.")), None);
        let s = offered().call("fly", "{}").result("Error: unknown tool").call("pay", "{}").result("paid");
        assert_eq!(vote_on(s), None);
    }

    #[test]
    fn a_schema_that_refers_elsewhere_is_not_fetched_and_does_not_vote() {
        let s = Script::new().tool("f", json!({"$ref": "http://127.0.0.1:9/schema.json"})).call("f", "{}");
        assert_eq!(vote_on(s), None);
    }

    #[test]
    fn the_answer_must_follow_the_requested_schema() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let answer =
            |text: &str| output_vote(&Script::new().schema(schema.clone()).user("n?").answer(text).done());
        assert!(answer("It is 5.").is_some());
        assert!(answer(r#"{"n": "5"}"#).is_some());
        assert_eq!(answer(r#"{"n": 5}"#), None);
        assert_eq!(answer("```json\n{\"n\": 5}\n```"), None);
        assert_eq!(output_vote(&Script::new().schema(schema).call("f", "{}").done()), None);
        assert_eq!(output_vote(&Script::new().answer("It is 5.").done()), None);
    }
}
