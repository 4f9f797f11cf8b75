use serde_json::Value;

/// JSON text in one form: keys sorted, no spaces, escapes as serde writes them. Text that is no JSON is trimmed and
/// otherwise left alone.
///
/// Clients parse a tool call's arguments and print them anew when they send the history back; in this form the two
/// are equal.
#[must_use]
pub fn canonical_json(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            value.sort_all_objects();
            value.to_string()
        }
        Err(_) => text.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::canonical_json;

    #[test]
    fn key_order_spaces_and_escapes_do_not_matter() {
        let one = canonical_json(r#" {"b": [1, {"y": "\u00e9", "x": null}], "a": 2.5} "#);
        assert_eq!(one, r#"{"a":2.5,"b":[1,{"x":null,"y":"é"}]}"#);
        assert_eq!(canonical_json(&one), one);
    }

    #[test]
    fn order_in_arrays_matters() {
        assert_ne!(canonical_json("[1,2]"), canonical_json("[2,1]"));
    }

    #[test]
    fn text_that_is_no_json_stays_but_trimmed() {
        assert_eq!(canonical_json("  {\"a\": tru "), "{\"a\": tru");
        assert_eq!(canonical_json(""), "");
        let deep = "[".repeat(100_000);
        assert_eq!(canonical_json(&deep), deep);
    }
}
