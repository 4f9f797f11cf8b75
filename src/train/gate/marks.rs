//! How right an answer is.

use std::collections::HashMap;

use serde_json::Value;

/// From 0 to 1. Where the right answer is a JSON object or array, the answer has to be the same value: 1 or 0. Else it is
/// text: 1 where it is the same but for case, spaces and punctuation, otherwise the F1 of its words, which stays below.
#[must_use]
pub fn score(said: &str, right: &str) -> f64 {
    if let Some(right) = structure(right) {
        return if structure(said).is_some_and(|said| said == right) { 1.0 } else { 0.0 };
    }
    let (said, right) = (words(said), words(right));
    if said == right { 1.0 } else { f1(&said, &right).min(0.99) }
}

/// The value of a text that is a JSON object or array; the order of keys does not matter.
fn structure(text: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(text.trim()).ok()?;
    value.sort_all_objects();
    (value.is_object() || value.is_array()).then_some(value)
}

pub(super) fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

pub(super) fn f1(said: &[String], right: &[String]) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in right {
        *left.entry(word).or_default() += 1;
    }
    let mut shared = 0;
    for word in said {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            shared += 1;
        }
    }
    if shared == 0 { 0.0 } else { 2.0 * f64::from(shared) / (said.len() + right.len()) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_right_or_wrong_and_text_is_more_or_less_right() {
        let right = r#"{"queue": "billing", "order_id": null}"#;
        for (said, right, expected) in [
            (r#" {"order_id":null,"queue":"billing"} "#, right, 1.0),
            (r#"{"order_id":"7","queue":"billing"}"#, right, 0.0),
            (r#"Sure: {"order_id":null,"queue":"billing"}"#, right, 0.0),
            ("billing", right, 0.0),
            ("Yes, of course!", "yes of  course", 1.0),
            ("a b c d", "d c b a", 0.99),
            ("a b", "a c", 0.5),
            ("", "a", 0.0),
            ("42", "42.", 1.0),
        ] {
            assert!((score(said, right) - expected).abs() < 1e-9, "{said} | {right}: {}", score(said, right));
        }
    }
}
