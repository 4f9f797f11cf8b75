//! Where a body is cut into pieces, so that what comes again in the next request is found again.
//!
//! In: the bytes of a body, of any kind. Out: where its pieces end. Always true: the pieces one after the other are the
//! body, whatever it is; no piece is longer than [`MAX`]. The request of a conversation's next turn repeats the
//! messages of this one, so the cuts lie between messages: a body that is a JSON object (or list) is cut before each
//! element of its lists of objects (`messages`, `input`, `tools`, …), and after the last. A separator goes with the
//! element that follows it: in the next request, the last message of this one is followed by a comma in place of the
//! list's end. What is long after that is cut by its content, so that a text that grows or moves is found again as well.
//!
//! No tree is built and nothing is validated: of a body that is not JSON, or only the beginning of it, the cuts are
//! somewhere, and that does no harm.

use memchr::memchr2;

/// A piece is at most this long, in bytes.
pub const MAX: usize = 64 << 10;
/// What is longer than this is cut by its content.
const WHOLE: usize = 32 << 10;
/// A cut by content leaves at least this much.
const MIN: usize = 8 << 10;
/// Of the rolling hash, these bits are zero at a cut: every 16 KiB on average.
const CUT: u64 = !(u64::MAX >> 14);

/// The end of a piece; it begins where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Offset of the first byte that is not in the piece.
    pub end: usize,
    /// Whether the piece is the last element of a list: here the next request of a conversation goes on.
    pub list_ends: bool,
}

/// Where the pieces of a body end, in order; the last one at the body's end. None of an empty body.
#[must_use]
pub fn cuts(body: &[u8]) -> Vec<Cut> {
    let mut scan = Scan { body, at: 0, cuts: Vec::new() };
    // None: not JSON, or only its beginning. The cuts so far are good.
    let _ = scan.document();
    scan.cut(body.len(), false);
    scan.cuts
}

/// Splits a body at its [`cuts`].
pub fn pieces(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    cuts(body).into_iter().map(move |cut| &body[std::mem::replace(&mut from, cut.end)..cut.end])
}

struct Scan<'a> {
    body: &'a [u8],
    at: usize,
    cuts: Vec<Cut>,
}

impl Scan<'_> {
    /// Ends a piece at `end`, and pieces before it where that would be too long.
    fn cut(&mut self, end: usize, list_ends: bool) {
        let mut from = self.cuts.last().map_or(0, |c| c.end);
        while end - from > WHOLE {
            from += by_content(&self.body[from..end]);
            if from < end {
                self.cuts.push(Cut { end: from, list_ends: false });
            }
        }
        if end > self.cuts.last().map_or(0, |c| c.end) {
            self.cuts.push(Cut { end, list_ends });
        }
    }

    /// The next byte that is no white space, without taking it.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.body.get(self.at)?, b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        Some(self.body[self.at])
    }

    /// Takes the next byte that is no white space, where it is `byte`.
    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn document(&mut self) -> Option<()> {
        if self.peek()? == b'[' {
            return self.list();
        }
        self.take(b'{')?;
        loop {
            (self.peek()? == b'"').then_some(())?;
            self.string()?;
            self.take(b':')?;
            if self.peek()? == b'[' {
                self.list()?
            } else {
                self.value()?
            }
            self.take(b',')?;
        }
    }

    /// Goes past a list; cuts it where its first element is an object.
    fn list(&mut self) -> Option<()> {
        let start = self.at;
        self.at += 1;
        if self.peek()? != b'{' {
            self.at = start;
            return self.value();
        }
        self.cut(self.at, false);
        loop {
            self.value()?;
            let end = self.at;
            let more = self.peek()? == b',';
            self.cut(end, !more);
            self.at += 1;
            if !more {
                return Some(());
            }
        }
    }

    /// Goes past a value of any kind.
    fn value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        self.peek()?;
        loop {
            match self.body.get(self.at)? {
                b'"' => {
                    self.string()?;
                    if depth == 0 {
                        return Some(());
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                // The end of what this number or word is in.
                b'}' | b']' | b',' if depth == 0 => return Some(()),
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Some(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Goes past a string, which begins here.
    fn string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            self.at += memchr2(b'"', b'\\', self.body.get(self.at..)?)?;
            if self.body[self.at] == b'"' {
                self.at += 1;
                return Some(());
            }
            // A backslash and whatever it stands before; `\u1234` holds neither a quote nor a backslash.
            self.at += 2;
        }
    }
}

/// How long the first piece of `text` is when cut by content. A rolling hash of the last 64 bytes decides, so that the
/// same text is cut alike wherever it stands (W. Xia et al., FastCDC, USENIX ATC 2016).
fn by_content(text: &[u8]) -> usize {
    let most = text.len().min(MAX);
    let mut hash = 0u64;
    for (at, byte) in text[..most].iter().enumerate().skip(MIN - 64) {
        hash = (hash << 1).wrapping_add(GEAR[*byte as usize]);
        if hash & CUT == 0 && at >= MIN {
            return at + 1;
        }
    }
    most
}

/// A random number for each byte (splitmix64).
const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let z = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[n] = z ^ (z >> 31);
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn texts(body: &str) -> Vec<&str> {
        pieces(body.as_bytes()).map(|p| std::str::from_utf8(p).expect("cut between characters")).collect()
    }

    /// The laws that hold for any bytes.
    fn is_lossless(body: &[u8]) {
        let cuts = cuts(body);
        assert_eq!(pieces(body).collect::<Vec<_>>().concat(), body);
        assert_eq!(cuts.last().map_or(0, |c| c.end), body.len());
        let mut from = 0;
        for cut in cuts {
            assert!(cut.end > from && cut.end - from <= MAX);
            from = cut.end;
        }
    }

    #[test]
    fn a_request_is_cut_before_each_message_and_tool() {
        let body = r#"{"model":"m", "messages": [{"role":"system","content":"a ] } , \" b"}, {"x":[1,{}]} ],"tools":[{"t":1}],"n":[1,2]}"#;
        assert_eq!(
            texts(body),
            [
                r#"{"model":"m", "messages": ["#,
                r#"{"role":"system","content":"a ] } , \" b"}"#,
                r#", {"x":[1,{}]}"#,
                r#" ],"tools":["#,
                r#"{"t":1}"#,
                r#"],"n":[1,2]}"#,
            ]
        );
        let ends: Vec<bool> = cuts(body.as_bytes()).iter().map(|c| c.list_ends).collect();
        assert_eq!(ends, [false, false, true, false, true, false]);
    }

    #[test]
    fn the_next_request_of_a_conversation_begins_with_the_same_pieces() {
        let one = r#"{"model":"m","messages":[{"role":"user","content":"one"}],"stream":true}"#;
        let two = r#"{"model":"m","messages":[{"role":"user","content":"one"},{"role":"assistant","content":"[\"]"}],"stream":true}"#;
        assert_eq!(texts(one)[..2], texts(two)[..2]);
        assert_eq!(texts(one)[2], texts(two)[3]);
    }

    #[test]
    fn a_cut_off_request_is_cut_as_far_as_it_goes() {
        let whole = r#"{"messages":[{"a":"\"]"},{"b":[]}],"x":1}"#;
        for end in 0..=whole.len() {
            is_lossless(&whole.as_bytes()[..end]);
        }
        assert_eq!(texts(&whole[..31]), [r#"{"messages":["#, r#"{"a":"\"]"}"#, r#",{"b":["#]);
    }

    #[test]
    fn nesting_of_any_depth_is_scanned_without_recursion() {
        for open in ["[", "{\"a\":", "[{\"a\":"] {
            is_lossless(open.repeat(200_000).as_bytes());
        }
    }

    #[test]
    fn a_long_text_that_moved_keeps_most_of_its_pieces() {
        let mut seed = 1u64;
        let long: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .take(400_000)
        .collect();
        is_lossless(&long);
        let before: std::collections::HashSet<&[u8]> = pieces(&long).collect();
        assert!(before.len() > 8);
        let moved = [b"something before it".as_slice(), &long].concat();
        let again = pieces(&moved).filter(|p| before.contains(p)).count();
        assert!(again + 2 >= before.len(), "{again} of {}", before.len());
    }

    /// JSON values with everything that could mislead a scanner.
    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            "[\\PC\\[\\]{},:\"\\\\\n]{0,12}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::vec(("[\\PC\"\\\\]{0,5}", inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_without_loss(body in prop::collection::vec(any::<u8>(), 0..300)) {
            is_lossless(&body);
        }

        #[test]
        fn bytes_that_look_like_json_are_cut_without_loss(body in "[\\[\\]{}\",:\\\\ a\n]{0,80}") {
            is_lossless(body.as_bytes());
        }

        #[test]
        fn elements_of_valid_json_are_whole_pieces(
            messages in prop::collection::vec(prop::collection::vec(("[\\PC\"\\\\]{0,5}", json_value()), 0..4), 1..6),
            other in json_value(),
            pretty in any::<bool>(),
            first in any::<bool>(),
        ) {
            let messages: Vec<Value> =
                messages.into_iter().map(|m| Value::Object(m.into_iter().collect())).collect();
            // Not a list, which would be cut as well.
            let other = json!({"of": other});
            let body = if first {
                json!({"messages": messages, "other": other})
            } else {
                json!({"other": other, "messages": messages})
            };
            let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
            let text = text.expect("values print");
            is_lossless(text.as_bytes());
            let parts = texts(&text);
            let elements: Vec<Value> = parts[1..parts.len() - 1]
                .iter()
                .map(|p| serde_json::from_str(p.trim_start().trim_start_matches(',')).expect("one element"))
                .collect();
            prop_assert_eq!(elements, messages);
        }
    }
}
