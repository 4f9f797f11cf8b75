//! How Python writes values, where templates print them.

use std::fmt::Write as _;
use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};
use serde::Serialize;
use serde_json::ser::Formatter;

/// Jinja's `{{ value }}`, with `None`, `True` and lists as Python prints them.
pub(super) fn format(out: &mut Output<'_>, _state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Ok(());
    }
    let mut text = String::new();
    match value.as_str() {
        Some(own) => text.push_str(own),
        None => repr(value, &mut text)?,
    }
    out.write_str(&text).map_err(Error::from)
}

fn repr(value: &Value, to: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => to.push_str("None"),
        ValueKind::Bool => to.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), to),
        ValueKind::Seq => {
            to.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                to.push_str(if i > 0 { ", " } else { "" });
                repr(&item, to)?;
            }
            to.push(']');
        }
        ValueKind::Map => {
            to.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                to.push_str(if i > 0 { ", " } else { "" });
                repr(&key, to)?;
                to.push_str(": ");
                repr(&value.get_item(&key)?, to)?;
            }
            to.push('}');
        }
        _ => write!(to, "{value}").map_err(Error::from)?,
    }
    Ok(())
}

/// Single quotes, unless there are some within and no double ones.
fn quoted(text: &str, to: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    to.push(quote);
    for character in text.chars() {
        match character {
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            c if c == quote => to.extend(['\\', c]),
            c => to.push(c),
        }
    }
    to.push(quote);
}

/// `json.dumps(value, ensure_ascii=False, indent=…)`, to which transformers set Jinja's filter: nothing is escaped for
/// HTML, and there is a space after `,` and `:`.
pub(super) fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Its other options, such as sort_keys, have their default in every template known.
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
        Some(indent) => {
            let spaces = vec![b' '; indent.min(16)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
    }
    .map_err(failed)?;
    Ok(Value::from_safe_string(String::from_utf8(out).expect("JSON is UTF-8")))
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}
