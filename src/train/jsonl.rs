//! OpenAI's format for supervised fine-tuning: a JSON object a line, `{"messages": [...], "tools": [...]}`, where an
//! assistant's message may have a `weight` of 0 (not learned) or 1.
//!
//! Format: <https://platform.openai.com/docs/guides/supervised-fine-tuning>

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chat::{Chat, flatten};

/// A file of examples cannot be used; the message names line and field.
#[derive(Debug, thiserror::Error)]
pub enum JsonlError {
    #[error("{path}: cannot be read: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("{path}:{line}: {field}: {problem}", path = path.display())]
    Line {
        path: PathBuf,
        /// From 1.
        line: usize,
        /// As `messages[2].content`; `line` for all of it.
        field: String,
        problem: String,
    },

    #[error("{path}: holds no examples", path = path.display())]
    Empty { path: PathBuf },
}

/// Reads all conversations of a file; empty lines are passed over.
///
/// # Errors
/// When the file cannot be read, has none, or at the first line that is no conversation to learn from.
pub fn read(path: &Path) -> Result<Vec<Chat>, JsonlError> {
    let failed = |source| JsonlError::Read { path: path.to_owned(), source };
    let mut chats = Vec::new();
    for (at, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let line = line.map_err(failed)?;
        if line.trim().is_empty() {
            continue;
        }
        chats.push(parse(&line).map_err(|(field, problem)| JsonlError::Line {
            path: path.to_owned(),
            line: at + 1,
            field,
            problem,
        })?);
    }
    if chats.is_empty() {
        return Err(JsonlError::Empty { path: path.to_owned() });
    }
    Ok(chats)
}

/// Writes conversations, one a line.
///
/// # Errors
/// When the file cannot be written.
pub fn write<'a>(path: &Path, chats: impl IntoIterator<Item = &'a Chat>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for chat in chats {
        serde_json::to_writer(&mut out, chat)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Where and what is wrong.
type Fault = (String, String);

fn fault<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Fault> {
    Err((field.into(), problem.into()))
}

/// One line.
fn parse(line: &str) -> Result<Chat, Fault> {
    let value: Value = serde_json::from_str(line.trim_start_matches('\u{feff}'))
        .or_else(|e| fault("line", format!("is no JSON: {e}")))?;
    if !value.is_object() {
        return fault("line", "must be a JSON object with messages");
    }
    let Some(messages) = value["messages"].as_array() else {
        return fault("messages", "must be a list of messages");
    };
    let mut messages = messages.clone();
    for (i, message) in messages.iter_mut().enumerate() {
        check(message).map_err(|(field, problem)| {
            (format!("messages[{i}]{}{field}", if field.is_empty() { "" } else { "." }), problem)
        })?;
    }
    let tools = match value.get("tools") {
        None | Some(Value::Null) => Value::Null,
        Some(tools @ Value::Array(list)) => {
            if let Some(i) = list.iter().position(|tool| !tool["function"]["name"].is_string()) {
                return fault(format!("tools[{i}].function.name"), "must be text");
            }
            if list.is_empty() { Value::Null } else { tools.clone() }
        }
        Some(_) => return fault("tools", "must be a list of tools"),
    };
    let chat = Chat { messages, tools };
    match chat.learned().first() {
        None => fault("messages", "has no message of the assistant to learn"),
        Some(0) => fault("messages[0]", "is the assistant's: there is nothing that it answers"),
        Some(_) => Ok(chat),
    }
}

fn check(message: &mut Value) -> Result<(), Fault> {
    let Some(role) = message["role"].as_str().map(str::to_owned) else {
        return fault("role", "must be text");
    };
    if !["system", "developer", "user", "assistant", "tool", "function"].contains(&role.as_str()) {
        return fault("role", format!("{role:?} is none of system, developer, user, assistant, tool"));
    }
    let calls = match message.get("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) if role == "assistant" => {
            if let Some(i) = calls.iter().position(|call| !call["function"]["name"].is_string()) {
                return fault(format!("tool_calls[{i}].function.name"), "must be text");
            }
            !calls.is_empty()
        }
        Some(_) => return fault("tool_calls", "must be a list, on a message of the assistant"),
    };
    match message.get("weight") {
        None => {}
        Some(_) if role != "assistant" => return fault("weight", "is for messages of the assistant only"),
        Some(weight) if weight.as_f64().is_some_and(|w| w == 0.0 || w == 1.0) => {}
        Some(weight) => return fault("weight", format!("must be 0 or 1, not {weight}")),
    }
    if message["content"].is_null() && !calls {
        return fault("content", "must be text");
    }
    flatten(message).or_else(|part| match part {
        Some(i) => fault(format!("content[{i}]"), "is no text; only text is learned"),
        None => fault("content", "must be text"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("data.jsonl");
        std::fs::write(&path, format!("\n{line}\n")).expect("written");
        let error = read(&path).expect_err("it is wrong").to_string();
        error.split_once("data.jsonl").expect("it names the file").1.to_owned()
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_field() {
        let user = r#"{"role":"user","content":"hi"}"#;
        for (line, expected) in [
            ("{\"messages\"".to_owned(), ":2: line: is no JSON"),
            ("[]".to_owned(), ":2: line: must be a JSON object"),
            (r#"{"prompt":"hi"}"#.to_owned(), ":2: messages: must be a list"),
            (format!(r#"{{"messages":[{user}]}}"#), ":2: messages: has no message of the assistant"),
            (r#"{"messages":[{"role":"assistant","content":"a"}]}"#.to_owned(), ":2: messages[0]: "),
            (format!(r#"{{"messages":[{user},{{"role":"bot","content":"a"}}]}}"#), ":2: messages[1].role: \"bot\""),
            (format!(r#"{{"messages":[{user},{{"role":"assistant"}}]}}"#), ":2: messages[1].content: "),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url"}]}]}"#.to_owned(),
                ":2: messages[0].content[1]: is no text",
            ),
            (
                format!(r#"{{"messages":[{user},{{"role":"assistant","content":"a","weight":0.5}}]}}"#),
                ":2: messages[1].weight: must be 0 or 1",
            ),
            (
                format!(r#"{{"messages":[{user},{{"role":"assistant","content":"a"}}],"tools":[{{"name":"f"}}]}}"#),
                ":2: tools[0].function.name: ",
            ),
            (String::new(), ": holds no examples"),
        ] {
            let told = said(&line);
            assert!(told.starts_with(expected), "{line}: {told}");
        }
    }

    #[test]
    fn weights_tell_what_is_learned_and_what_was_written_reads_back() {
        let line = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
            {"role":"assistant","content":"c","weight":0},{"role":"user","content":"d"},
            {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]}],
            "tools":[{"type":"function","function":{"name":"f"}}]}"#;
        let chat = parse(line).expect("it is right");
        assert_eq!(chat.learned(), [3]);
        assert_eq!(chat.messages[0]["content"], "ab");
        assert!(chat.plain().iter().all(|m| m.get("weight").is_none()));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("data.jsonl");
        write(&path, [&chat, &chat]).expect("written");
        assert_eq!(read(&path).expect("readable"), [chat.clone(), chat]);
    }
}
