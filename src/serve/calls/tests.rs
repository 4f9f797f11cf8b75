use proptest::prelude::*;

use super::*;

fn calls(parallel: bool) -> Calls {
    let tools = ["look", "book"].map(str::to_owned).into();
    Calls::of(Some(Callable { tools, parallel, is_named: false }))
}

/// What an answer is made of, adjacent text as one.
fn read<'a>(mut calls: Calls, pieces: impl IntoIterator<Item = &'a str>) -> (Vec<Part>, usize) {
    let mut parts: Vec<Part> = Vec::new();
    let mut found: Vec<Part> = pieces.into_iter().flat_map(|piece| calls.read(piece)).collect();
    found.extend(calls.end());
    for part in found {
        match (parts.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
            (_, part) => parts.push(part),
        }
    }
    (parts, calls.found)
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn call(at: usize, name: &str, arguments: &str) -> Part {
    Part::Call(Call { at, name: name.to_owned(), arguments: arguments.to_owned() })
}

const TWO: &str = "Let me see.\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"é\"}}\n</tool_call>\n\
                   <tool_call>{\"name\": \"book\", \"arguments\": {}}</tool_call>\n";

#[test]
fn calls_in_tags_come_after_text_and_more_than_once() {
    let expected = [text("Let me see.\n"), call(0, "look", r#"{"at": "é"}"#), call(1, "book", "{}")];
    assert_eq!(read(calls(true), [TWO]), (expected.to_vec(), 2));
    assert_eq!(read(calls(false), [TWO]), (expected[..2].to_vec(), 1));
    let unclosed = "<tool_call>{\"name\": \"book\", \"arguments\": \"{\\\"a\\\": 1}\"}";
    assert_eq!(read(calls(true), [unclosed]).0, [call(0, "book", r#"{"a": 1}"#)]);
    let said = "<tool_call>{\"name\": \"book\", \"arguments\": {}}</tool_call>\n\nDone.";
    assert_eq!(read(calls(true), [said]).0, [call(0, "book", "{}"), text("\n\nDone.")]);
}

#[test]
fn an_answer_may_be_a_call_as_a_whole() {
    let one = " {\"name\": \"look\", \"parameters\": {\"at\": 1}} ";
    assert_eq!(read(calls(true), [one]).0, [call(0, "look", r#"{"at": 1}"#)]);
    let list = "[{\"name\": \"look\", \"arguments\": {}}, {\"name\": \"book\", \"arguments\": {}}]";
    assert_eq!(read(calls(true), [list]).0, [call(0, "look", "{}"), call(1, "book", "{}")]);
    let both = r#"{"name": "look", "arguments": {"at": 1}, "parameters": {}}"#;
    assert_eq!(read(calls(true), [both]).0, [call(0, "look", r#"{"at": 1}"#)]);
    let quoting = r#"<tool_call>{"name": "look", "arguments": {"at": "</tool_call>"}}</tool_call>"#;
    assert_eq!(read(calls(true), [quoting]).0, [call(0, "look", r#"{"at": "</tool_call>"}"#)]);
    let exactly = r#"{"name": "look", "arguments": {"id": 123456789012345678901, "id": 1e999}}"#;
    let written = r#"{"id": 123456789012345678901, "id": 1e999}"#;
    assert_eq!(read(calls(true), [exactly]).0, [call(0, "look", written)]);
}

#[test]
fn a_tag_that_is_none_hides_no_call_after_it() {
    let book = "<tool_call>{\"name\": \"book\", \"arguments\": {}}</tool_call>";
    for before in [
        "I use <tool_call> now. ",
        "<tool_call>",
        "\n\n<tool_call>look()</tool_call> ",
        "<tool_call>{\"name\": 1} ",
    ] {
        let expected = [text(before), call(0, "book", "{}")];
        assert_eq!(read(calls(true), [&format!("{before}{book}")[..]]).0, expected, "{before}");
    }
}

#[test]
fn what_cannot_be_a_call_is_said_at_once() {
    for said in ["[1] Paris", "[docs](/a)", "{1, 2}", "<b>", "x <tool_call> y"] {
        let told: String = calls(true)
            .read(said)
            .iter()
            .map(|part| if let Part::Text(text) = part { text } else { "?" })
            .collect();
        assert_eq!(told, said);
    }
}

#[test]
fn everything_else_is_text_as_it_was_written() {
    for said in [
        "",
        " \n",
        "a < b <tool",
        "{\"name\": \"delete\", \"arguments\": {}}",
        "{\"name\": \"look\"}",
        "[]",
        "[{\"name\": \"look\", \"arguments\": {}}, 1]",
        "{\"total\": 3}",
        "<tool_call>look()</tool_call> and on",
        "\n\n<tool_call>look()</tool_call> x",
        "<tool_call>{\"name\": \"look\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"look\", \"argu",
    ] {
        let expected = if said.is_empty() { Vec::new() } else { vec![text(said)] };
        assert_eq!(read(calls(true), [said]), (expected, 0), "{said}");
    }
    assert_eq!(Calls::of(None).read(TWO), [text(TWO)]);
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        words in proptest::collection::vec(prop_oneof![
            Just("<tool_call>"), Just("</tool_call>"), Just("{\"name\": \"look\", \"arguments\": {}}"), Just("\n"), Just("é"),
            Just("<"), Just("["), Just("]"), Just("a b"),
        ], 0..8),
        every in 1_usize..7,
    ) {
        let whole = words.concat();
        let letters: Vec<char> = whole.chars().collect();
        let pieces: Vec<String> = letters.chunks(every).map(|piece| piece.iter().collect()).collect();
        let cut = read(calls(true), pieces.iter().map(String::as_str));
        prop_assert_eq!(cut, read(calls(true), [whole.as_str()]));
    }

    #[test]
    fn without_a_call_nothing_is_lost(
        words in proptest::collection::vec(prop_oneof![
            Just("<tool_call>"), Just("</tool_call>"), Just("{\"name\": \"delete\", \"arguments\": {}}"), Just("\n"),
            Just("é"), Just("<"), Just("["), Just("]"), Just("a b"),
        ], 0..8),
    ) {
        let said = words.concat();
        let expected = if said.is_empty() { Vec::new() } else { vec![text(&said)] };
        prop_assert_eq!(read(calls(true), words).0, expected);
    }
}
