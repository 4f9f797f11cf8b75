//! From tokens to text that may be sent.
//!
//! In: the bytes of one token after the other. Out: text, piece by piece, that will not have to be taken back: no half
//! characters, nothing that a stop string may still claim.
//!
//! Always true: the pieces together are the bytes read as UTF-8 (what is none becomes U+FFFD), up to where the first
//! stop string is complete, without that stop string; however the bytes were cut into tokens.

use std::collections::VecDeque;

use super::sampling::Likely;

/// A token that was said, with its probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub token: u32,
    pub likely: Likely,
    /// Bytes of text before it.
    pub start: usize,
}

/// What may be sent now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Piece {
    pub text: String,
    pub told: Vec<Told>,
    /// A stop string is complete: nothing comes after this.
    pub stopped: bool,
}

/// The text of one choice while it is being generated.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    stops: Vec<Stop>,
    /// The beginning of a character that is not whole.
    partial: Vec<u8>,
    /// Text that a stop string may claim.
    held: String,
    /// Bytes of text that were sent.
    sent: usize,
    waiting: VecDeque<Told>,
}

impl Voice {
    /// `stops`: none of them empty.
    pub(crate) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().map(|text| Stop::new(text)).collect(),
            partial: Vec::new(),
            held: String::new(),
            sent: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Says a token.
    pub(crate) fn say(&mut self, token: u32, bytes: &[u8], likely: Option<Likely>) -> Piece {
        if let Some(likely) = likely {
            let start = self.sent + self.held.len();
            self.waiting.push_back(Told { token, likely, start });
        }
        self.partial.extend_from_slice(bytes);
        let text = take_whole(&mut self.partial);
        self.release(&text)
    }

    /// What is left when nothing comes any more.
    pub(crate) fn end(&mut self) -> Piece {
        let mut piece = Piece::default();
        if !self.partial.is_empty() {
            self.partial.clear();
            piece = self.release("\u{fffd}");
        }
        if !piece.stopped {
            piece.text.push_str(&std::mem::take(&mut self.held));
            piece.told.extend(self.waiting.drain(..));
        }
        piece
    }

    fn release(&mut self, text: &str) -> Piece {
        for (at, byte) in text.bytes().enumerate() {
            // Of stop strings that end here the longest counts: it begins first.
            let ended = self.stops.iter_mut().filter_map(|stop| stop.read(byte)).max();
            if let Some(length) = ended {
                self.held.push_str(text.get(..=at).expect("a stop string ends where a character does"));
                self.held.truncate(self.held.len() - length);
                return self.send(self.held.len(), true);
            }
        }
        self.held.push_str(text);
        let claimed = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        self.send(self.held.len() - claimed, false)
    }

    fn send(&mut self, length: usize, stopped: bool) -> Piece {
        let rest = self.held.split_off(length);
        let text = std::mem::replace(&mut self.held, rest);
        self.sent += text.len();
        let said = self.waiting.partition_point(|told| told.start < self.sent);
        Piece { text, told: self.waiting.drain(..said).collect(), stopped }
    }
}

/// Takes the whole characters off the front, with U+FFFD for what is no character, as `String::from_utf8_lossy` does.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest: &[u8] = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(whole) => {
                text.push_str(whole);
                rest = &[];
                break;
            }
            Err(error) => {
                let (whole, after) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(whole).expect("it was found valid up to there"));
                rest = after;
                match error.error_len() {
                    Some(wrong) => {
                        text.push('\u{fffd}');
                        rest = &rest[wrong..];
                    }
                    None => break,
                }
            }
        }
    }
    *bytes = rest.to_vec();
    text
}

/// Looks for one string in a stream of bytes (Knuth, Morris, Pratt).
#[derive(Clone, Debug)]
struct Stop {
    text: Vec<u8>,
    /// For each length that was matched, the longest shorter beginning that the matched bytes end with.
    shorter: Vec<usize>,
    matched: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut shorter = vec![0; text.len()];
        let mut matched = 0;
        for at in 1..text.len() {
            while matched > 0 && text[at] != text[matched] {
                matched = shorter[matched - 1];
            }
            if text[at] == text[matched] {
                matched += 1;
            }
            shorter[at] = matched;
        }
        Self { text, shorter, matched: 0 }
    }

    /// Its length, when it ends with this byte.
    fn read(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.shorter[self.matched - 1];
        }
        if self.text[self.matched] == byte {
            self.matched += 1;
        }
        (self.matched == self.text.len()).then_some(self.matched)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text and whether it was stopped, for bytes cut into these pieces.
    fn said(pieces: &[&[u8]], stops: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut voice = Voice::new(&stops);
        let mut text = String::new();
        for (token, piece) in (0..).zip(pieces) {
            let said = voice.say(token, piece, None);
            text += &said.text;
            if said.stopped {
                return (text, true);
            }
        }
        let rest = voice.end();
        (text + &rest.text, rest.stopped)
    }

    #[test]
    fn half_characters_wait_for_their_other_half() {
        let mut voice = Voice::new(&[]);
        assert_eq!(voice.say(0, &[b'a', 0xc3], None).text, "a");
        assert_eq!(voice.say(1, &[0xa4], None).text, "ä");
        assert_eq!(voice.say(2, &[0xf0, 0x9f], None).text, "");
        assert_eq!(voice.end().text, "\u{fffd}", "the rest never came");
    }

    #[test]
    fn a_stop_string_is_neither_sent_nor_hinted_at() {
        let mut voice = Voice::new(&["END".into(), "\n\n".into()]);
        assert_eq!(voice.say(0, b"one E", None).text, "one ");
        assert_eq!(voice.say(1, b"N", None).text, "");
        assert_eq!(voice.say(2, b"glish", None).text, "ENglish");
        assert_eq!(voice.say(3, b" two\n", None).text, " two");
        let last = voice.say(4, b"\nthree", None);
        assert_eq!((last.text.as_str(), last.stopped), ("", true));
    }

    #[test]
    fn what_a_stop_string_might_have_claimed_is_sent_at_the_end() {
        assert_eq!(said(&[b"wait EN"], &["END"]), ("wait EN".into(), false));
    }

    #[test]
    fn the_stop_string_that_is_complete_first_counts_and_of_two_the_longer() {
        assert_eq!(said(&[b"abcd"], &["abcd", "bc"]), ("a".into(), true));
        assert_eq!(said(&[b"xabc"], &["bc", "abc"]), ("x".into(), true));
        assert_eq!(said(&[b"aab"], &["ab"]), ("a".into(), true));
        assert_eq!(said(&[b"abababc."], &["ababc"]), ("ab".into(), true), "matches overlap");
    }

    #[test]
    fn probabilities_go_with_the_text_of_their_token() {
        let likely = || Some(Likely { logprob: -1.0, top: vec![] });
        let mut voice = Voice::new(&["STOP".into()]);
        let first = voice.say(7, b"a S", likely());
        assert_eq!(first.told.iter().map(|t| (t.token, t.start)).collect::<Vec<_>>(), [(7, 0)]);
        assert!(voice.say(8, b"T", likely()).told.is_empty(), "its text is held back");
        let freed = voice.say(9, b"x", likely());
        assert_eq!(freed.told.iter().map(|t| (t.token, t.start)).collect::<Vec<_>>(), [(8, 3), (9, 4)]);
        voice.say(10, b"STO", likely());
        let last = voice.say(11, b"P", likely());
        assert!(last.stopped && last.told.is_empty(), "tokens of the stop string are not told");
    }

    /// Cuts bytes at these places.
    fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_text(
            text in "[abc äé€🦀]{0,40}",
            noise in prop::collection::vec(any::<u8>(), 0..4),
            stops in prop::collection::vec("[abcä€]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let mut bytes = text.clone().into_bytes();
            let at = bytes.len() / 2;
            bytes.splice(at..at, noise);
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let lossy = String::from_utf8_lossy(&bytes).into_owned();
            // The shortest beginning that ends with a stop string, without the longest such stop string.
            let expected = (0..=lossy.len()).filter(|end| lossy.is_char_boundary(*end)).find_map(|end| {
                let stop = stops.iter().filter(|s| lossy[..end].ends_with(**s)).max_by_key(|s| s.len())?;
                Some((lossy[..end - stop.len()].to_owned(), true))
            });
            prop_assert_eq!(said(&cut(&bytes, &cuts), &stops), expected.unwrap_or((lossy, false)));
        }
    }
}
