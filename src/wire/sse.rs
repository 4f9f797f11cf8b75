//! Server-sent events, as the [WHATWG specification](https://html.spec.whatwg.org/multipage/server-sent-events.html)
//! parses them, from bytes that come in any pieces.

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event of a stream. `id` and `retry` lines are for reconnecting and are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The `event:` field; empty where the stream named none.
    pub name: String,
    /// The `data:` lines, joined by line feeds.
    pub data: String,
}

/// Turns bytes into events. Every way of cutting the bytes gives the same events.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The bytes of a line whose end has not come.
    line: Vec<u8>,
    /// The last byte was CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    /// A line has ended already, so a byte order mark is none any more.
    past_first_line: bool,
    event: Event,
    has_data: bool,
}

impl Decoder {
    /// Takes the next bytes and appends the events that they complete.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        let mut rest = bytes;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(at) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) {
            self.line.extend_from_slice(&rest[..at]);
            self.end_line(events);
            let cr = rest[at] == b'\r';
            rest = &rest[at + 1..];
            if cr {
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
        }
        self.line.extend_from_slice(rest);
    }

    /// Ends the stream and gives the event that no blank line completed, if there is one.
    ///
    /// A browser drops it. A recorder must not: servers forget the blank line after the last event, and of an
    /// interrupted stream the last event may be whole. The caller finds out by parsing its data.
    #[must_use]
    pub fn finish(mut self) -> Option<Event> {
        let mut events = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&mut events);
        }
        self.dispatch(&mut events);
        events.pop()
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        let line = match line.strip_prefix(BOM) {
            Some(rest) if !self.past_first_line => rest,
            _ => &line,
        };
        self.past_first_line = true;
        if line.is_empty() {
            self.dispatch(events);
            return;
        }
        let line = String::from_utf8_lossy(line);
        // a line without a colon is a field without a value, and one that begins with a colon is a comment
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            events.push(event);
        }
    }
}

/// The events of a recorded body, with the one that was not completed at its end.
#[must_use]
pub fn events(body: &[u8]) -> Vec<Event> {
    let (mut decoder, mut events) = (Decoder::default(), Vec::new());
    decoder.push(body, &mut events);
    events.extend(decoder.finish());
    events
}

/// Whether a body begins like an event stream.
pub(super) fn looks_like(body: &[u8]) -> bool {
    let body = body.strip_prefix(BOM).unwrap_or(body).trim_ascii_start();
    [&b"data:"[..], b"event:", b"id:", b"retry:", b":"].iter().any(|field| body.starts_with(field))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Decoder, Event, events};

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn every_line_end_ends_a_line() {
        let want = [event("", "a\nb"), event("x", "c")];
        for end in ["\n", "\r", "\r\n"] {
            let body = ["data: a", "data:b", "", "event: x", "data: c", "", ""].join(end);
            assert_eq!(events(body.as_bytes()), want, "{end:?}");
        }
    }

    #[test]
    fn comments_and_unknown_fields_are_skipped() {
        let body =
            b"\xef\xbb\xbf: keep-alive\n\nid: 7\nretry: 3\nnonsense\nevent: gone\n\ndata\n\ndata: \xff\n\n";
        assert_eq!(events(body), [event("", ""), event("", "\u{fffd}")]);
    }

    #[test]
    fn only_one_space_after_the_colon_goes() {
        assert_eq!(events(b"data:  x\n\n"), [event("", " x")]);
    }

    #[test]
    fn the_last_event_needs_no_blank_line() {
        assert_eq!(events(b"data: 1\n\ndata: [DONE]"), [event("", "1"), event("", "[DONE]")]);
        assert_eq!(events(b"data: 1\n\nevent: x\n"), [event("", "1")]);
    }

    #[test]
    fn a_byte_order_mark_counts_only_at_the_start() {
        assert_eq!(events(b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n"), [event("", "1")]);
    }

    /// Bytes made of what matters to the parser, so that cuts fall in the middle of it.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            &b"data: "[..],
            b"data:",
            b"data",
            b"event: e",
            b":",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"{\"a\":1}",
            b"x",
            "é🙂".as_bytes(),
            b"\xef\xbb\xbf",
            b"\xff",
            b" ",
            b"id: 1",
        ]);
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(body in streams(), cuts in prop::collection::vec(0usize..400, 0..20)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for pair in cuts.windows(2) {
                decoder.push(&body[pair[0]..pair[1]], &mut got);
            }
            got.extend(decoder.finish());
            prop_assert_eq!(got, events(&body));
        }

        #[test]
        fn byte_by_byte_gives_the_same_events(body in streams()) {
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            body.chunks(1).for_each(|byte| decoder.push(byte, &mut got));
            got.extend(decoder.finish());
            prop_assert_eq!(got, events(&body));
        }
    }
}
