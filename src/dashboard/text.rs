//! Recorded text on its way to a page: invisible characters made visible, cut to a length, JSON indented.

use std::fmt;
use std::time::Duration;

use serde::de::IgnoredAny;

/// Recorded or user-given text that may stand on a page: still to be escaped, as the templates do, but without
/// characters that hide, reorder or fake what is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text(String);

impl Text {
    /// All of a text.
    pub(super) fn of(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let mut shown = String::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                // The line end of most protocols, not a trick.
                '\r' if chars.peek() == Some(&'\n') => {}
                '\n' | '\t' => shown.push(c),
                // By number: Unicode's control pictures are missing from common fonts.
                c if hides(c) => shown.push_str(&format!("⟦U+{:04X}⟧", u32::from(c))),
                c => shown.push(c),
            }
        }
        Self(shown)
    }

    /// The first `limit` characters on one line; `…` stands for the rest.
    pub(super) fn line(text: impl AsRef<str>, limit: usize) -> Self {
        let mut words = text.as_ref().split_whitespace();
        let mut line = String::new();
        let mut left = limit;
        // Word by word, so that a text of a megabyte costs what is shown of it.
        for word in words.by_ref() {
            if !line.is_empty() {
                line.push(' ');
            }
            let cut = word.char_indices().nth(left).map(|(at, _)| at);
            line.push_str(&word[..cut.unwrap_or(word.len())]);
            left = left.saturating_sub(word.chars().take(limit).count() + 1);
            if cut.is_some() || left == 0 {
                if cut.is_some() || words.next().is_some() {
                    line.push('…');
                }
                break;
            }
        }
        Self::of(line)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character shows nothing, or changes how its neighbours show. The two joiners and the first sixteen
/// variation selectors are left alone: ordinary writing and emoji need them.
fn hides(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}'             // controls but tab and line feed
        | '\u{ad}'                      // soft hyphen
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' // direction
        | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}' // no width
        | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // fillers
        | '\u{2028}' | '\u{2029}'       // separators that some programs take for line ends
        | '\u{fff9}'..='\u{fffb}'       // annotations
        | '\u{e0000}'..='\u{e0fff}'     // tags and further selectors: text smuggled past readers
    )
}

/// The longest beginning of `text` of at most `limit` bytes that ends between characters.
pub(super) fn beginning(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Bytes of JSON that read best on one line.
const ONE_LINE: usize = 56;
/// Deeper nesting is not indented: its line starts would take far more room than the text.
const DEEPEST: usize = 64;

/// JSON with each member on its own line, scalars and their spelling untouched; none where `text` is no JSON object
/// or array. Parsing and printing again would be shorter, but changes long numbers and drops repeated keys.
pub(super) fn indented_json(text: &str) -> Option<String> {
    let text = text.trim();
    if !text.starts_with(['{', '[']) || serde_json::from_str::<IgnoredAny>(text).is_err() {
        return None;
    }
    if text.len() <= ONE_LINE && !text.contains('\n') {
        return Some(text.to_owned());
    }
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut chars = text.chars().peekable();
    let (mut in_string, mut escaped) = (false, false);
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            (in_string, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            ' ' | '\t' | '\n' | '\r' => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                match chars.next_if(|c| matches!(c, '}' | ']')) {
                    Some(close) => out.push(close),
                    None => {
                        depth += 1;
                        if depth > DEEPEST {
                            return None;
                        }
                        new_line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    Some(out)
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// `6,867`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `25 %`; `–` of none. Rates never stand alone: templates write `n` beside them.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "–".into(),
        (0, _) => "0 %".into(),
        (part, whole) => match 100.0 * part as f64 / whole as f64 {
            p if p < 1.0 => "< 1 %".into(),
            p if p < 100.0 => format!("{:.0} %", p.min(99.0)),
            _ => "100 %".into(),
        },
    }
}

/// `340 ms`, `2.3 s`, `1 min 20 s`, `2 h 5 min`, `3 days`.
pub(super) fn duration(span: Duration) -> String {
    let s = span.as_secs();
    match span.as_millis() {
        0 if span.is_zero() => "0 ms".into(),
        0 => "< 1 ms".into(),
        ms @ 1..1000 => format!("{ms} ms"),
        _ if s < 60 => format!("{:.1} s", span.as_secs_f64()),
        _ if s < 3600 => two(s / 60, "min", s % 60, "s"),
        _ if s < 86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ if s < 2 * 86_400 => "1 day".into(),
        _ => format!("{} days", s / 86_400),
    }
}

fn two(large: u64, unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {small_unit}") }
}

/// `812 B`, `16 KB`, `1.2 MB`: powers of ten.
pub(super) fn bytes(n: usize) -> String {
    match n {
        0..1000 => format!("{n} B"),
        1000..1_000_000 => format!("{} KB", n / 1000),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_hides_is_shown() {
        assert_eq!(
            Text::of("a\u{202e}b\u{1b}[2J\u{0}\r\nc\rd").as_str(),
            "a⟦U+202E⟧b⟦U+001B⟧[2J⟦U+0000⟧\nc⟦U+000D⟧d"
        );
        assert_eq!(Text::of("\u{e0041}\u{200b}").as_str(), "⟦U+E0041⟧⟦U+200B⟧");
        assert_eq!(
            Text::of("👩\u{200d}💻 ❤\u{fe0f} äöü 你好 שלום").as_str(),
            "👩\u{200d}💻 ❤\u{fe0f} äöü 你好 שלום"
        );
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        assert_eq!(Text::line(" a  b\nc ", 80).as_str(), "a b c");
        assert_eq!(Text::line("äöüäöü", 4).as_str(), "äöüä…");
        assert_eq!(Text::line("ab cd ef", 5).as_str(), "ab cd…");
        assert_eq!(Text::line("", 5).as_str(), "");
    }

    #[test]
    fn json_is_indented_and_its_scalars_keep_their_spelling() {
        assert_eq!(indented_json(r#"{"ok": true}"#).as_deref(), Some(r#"{"ok": true}"#), "short: as it is");
        let indented =
            indented_json(r#" {"a":[1e400,{}, [ ]],"b":"x\"{,:","b":12345678901234567890123.50} "#);
        assert_eq!(
            indented.as_deref(),
            Some(
                "{\n  \"a\": [\n    1e400,\n    {},\n    []\n  ],\n  \"b\": \"x\\\"{,:\",\n  \"b\": 12345678901234567890123.50\n}"
            )
        );
        for other in ["", "12", "\"x\"", "{", "{} {}", "[1,]"] {
            assert_eq!(indented_json(other), None, "{other}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(indented_json(&deep), None, "nested too deeply to be helped by line breaks");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"].map(String::from)
        );
        assert_eq!(percent(0, 0), "–");
        assert_eq!(percent(999, 1000), "99 %", "not all is never 100 %");
        assert_eq!(percent(1, 1000), "< 1 %");
        assert_eq!(duration(Duration::from_secs(80)), "1 min 20 s");
        assert_eq!(duration(Duration::from_millis(2340)), "2.3 s");
        assert_eq!(bytes(16_384), "16 KB");
    }

    proptest! {
        #[test]
        fn indenting_keeps_the_value(value in r#"\[("a[,:\[{\\]{0,9}"|1|\{"k": ?[0-9]\}|\{ ?\}|\[ ?\])(, ?"b[ ,:}]{0,70}"){0,3} {0,60}\]"#) {
            if let Some(indented) = indented_json(&value) {
                let parse = |t: &str| serde_json::from_str::<serde_json::Value>(t).expect("valid");
                prop_assert_eq!(parse(&indented), parse(&value));
            }
        }

        #[test]
        fn nothing_that_hides_is_left(text in any::<String>()) {
            let shown = Text::of(&text);
            prop_assert!(!shown.as_str().chars().any(|c| hides(c) || (c.is_control() && c != '\n' && c != '\t')));
        }

        #[test]
        fn a_beginning_is_a_beginning(text in any::<String>(), limit in 0..40_usize) {
            let start = beginning(&text, limit);
            prop_assert!(text.starts_with(start) && start.len() <= limit && limit - start.len() < 4 || start == text);
        }
    }
}
