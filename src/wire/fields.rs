//! Lenient access to JSON: a field of another type than expected counts as absent.

use std::borrow::Cow;

use serde_json::Value;

/// A body's JSON value; none where it is no JSON even after mending.
///
/// Mended are bytes that are no UTF-8 and escaped surrogates without their partner: runtimes with UTF-16 strings
/// send both when they cut a text inside of a character, and model servers accept them.
pub(super) fn parse(bytes: &[u8]) -> Option<Value> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Some(value);
    }
    let text = String::from_utf8_lossy(bytes);
    match mend_surrogates(&text) {
        Some(mended) => serde_json::from_str(&mended).ok(),
        None if matches!(text, Cow::Owned(_)) => serde_json::from_str(&text).ok(),
        None => None,
    }
}

/// The text with escapes of lone surrogates (`\ud83d` without `\udxxx` after it) replaced by `\ufffd`; none where
/// there is none.
fn mend_surrogates(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let code_at = |at: usize| {
        let hex = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()
    };
    let (mut mended, mut kept, mut at) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match code_at(at) {
            Some(0xd800..=0xdbff) if matches!(code_at(at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => {
                mended.push_str(&text[kept..at]);
                mended.push_str("\\ufffd");
                at += 6;
                kept = at;
            }
            Some(_) => at += 6,
            // an escape of two characters; the second one may be wide where the text is broken anyway
            None => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    (kept > 0).then(|| mended + &text[kept..])
}

/// A field's text; none where it is empty.
pub(super) fn str<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|s| !s.is_empty())
}

/// As [`str`], owned.
pub(super) fn string(value: &Value, key: &str) -> Option<String> {
    str(value, key).map(String::from)
}

/// A field that names something: text, or a number as text.
pub(super) fn name(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(s) if !s.trim().is_empty() => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// A field's list; empty where there is none.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A field that is an object.
pub(super) fn object<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|v| v.is_object())
}

/// A field's number, if it is a whole one that is not negative.
pub(super) fn count(value: &Value, key: &str) -> Option<u64> {
    let number = value.get(key)?;
    number.as_u64().or_else(|| {
        // some servers print counts as floats
        let float = number.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f))?;
        Some(float as u64)
    })
}

/// A field's text as it is, or its JSON where it is something else than text; empty where it is absent or null.
pub(super) fn text_or_json(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse;

    #[test]
    fn lone_surrogates_and_broken_utf8_are_mended() {
        assert_eq!(parse(br#"{"a":"x\ud83d"}"#), Some(json!({"a": "x\u{fffd}"})));
        assert_eq!(
            parse(br#"{"a":"\udc00\ud83d\ude00\\ud83d"}"#),
            Some(json!({"a": "\u{fffd}\u{1f600}\\ud83d"}))
        );
        assert_eq!(parse(b"{\"a\":\"x\xf0\x9f\"}"), Some(json!({"a": "x\u{fffd}"})));
        assert_eq!(parse(b"\xef\xbb\xbf{}"), Some(json!({})));
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for bytes in [&b""[..], b"{", b"\\ud83d", b"\"\\ud8", b"\"\\\xc3\xa9", b"data: {}"] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
    }
}
