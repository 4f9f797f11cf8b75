use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{Body, BodyHash, Ended, Exchange, ExchangeId, Headers, Micros, Response, Scope, Timing};

/// An exchange on its way into the journal: all but its bodies, which are still in the pieces they came in.
#[derive(Debug)]
pub struct Entry {
    /// The bodies' bytes are empty; their hashes count only where they are truncated.
    /// Its headers are empty, too.
    pub exchange: Exchange,
    pub request_headers: HeaderLines,
    pub response_headers: HeaderLines,
    pub request: Vec<Bytes>,
    pub response: Vec<Bytes>,
}

/// Header lines in order, names in lower case: as [`Headers`], in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderLines {
    text: String,
    /// Where each name and value ends in the text.
    ends: Vec<(u32, u32)>,
}

impl HeaderLines {
    /// With room for so many lines.
    #[must_use]
    pub fn with_capacity(lines: usize) -> Self {
        // Longer ones grow it.
        Self { text: String::with_capacity(lines * 48), ends: Vec::with_capacity(lines) }
    }

    /// Adds a line; `value` appends it.
    pub fn push(&mut self, name: &str, value: impl FnOnce(&mut String)) {
        self.text.push_str(name);
        let name = self.text.len() as u32;
        value(&mut self.text);
        self.ends.push((name, self.text.len() as u32));
    }

    fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let mut from = 0;
        self.ends.iter().map(move |(name, value)| {
            let line = (&self.text[from..*name as usize], &self.text[*name as usize..*value as usize]);
            from = *value as usize;
            line
        })
    }
}

/// As [`Headers`] does it.
impl Serialize for HeaderLines {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

/// First bytes of a segment: what it is, and the version of its format. Its mark follows.
pub(super) const MAGIC: &[u8; 8] = b"remoraj1";
/// First bytes of each entry of a segment: after damage, the next entry is found by them. Random, for bodies hold what
/// clients choose: nobody can put an entry into one.
pub(super) type Mark = [u8; 8];
/// The mark of files in which nothing is ever looked for.
pub(super) const NO_MARK: Mark = [0; 8];
/// Mark, length of what follows the head, CRC-32 of it; then the length of the description, the description, the bodies.
const HEAD: usize = 16;

/// What an entry says besides the bodies' bytes, which follow it. `H`: what holds headers.
#[derive(Serialize, Deserialize)]
struct Description<'a, H> {
    id: [u8; 16],
    #[serde(borrow)]
    tenant: Cow<'a, str>,
    app: Cow<'a, str>,
    user: Cow<'a, str>,
    connection: i64,
    client_key: Option<Cow<'a, str>>,
    method: Cow<'a, str>,
    target: Cow<'a, str>,
    upstream: Cow<'a, str>,
    request_headers: H,
    request: BodyLine,
    response: Option<(u16, H)>,
    response_body: BodyLine,
    started: i64,
    head: Option<i64>,
    first_byte: Option<i64>,
    finished: i64,
    ended: Cow<'a, str>,
    detail: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct BodyLine {
    /// Bytes that follow.
    kept: u64,
    /// Of the whole body.
    length: u64,
    /// Of the whole body; none where it can be had from the bytes.
    sha256: Option<[u8; 32]>,
    truncated: bool,
}

impl BodyLine {
    fn of(body: &Body, pieces: &[Bytes]) -> Self {
        let kept = pieces.iter().map(|p| p.len() as u64).sum();
        let sha256 = (kept != body.length).then_some(body.sha256);
        Self { kept, length: body.length, sha256, truncated: body.truncated }
    }

    fn body(&self, bytes: Bytes) -> Body {
        let sha256 = self.sha256.unwrap_or_else(|| BodyHash::of(&bytes));
        Body { length: self.length, sha256, truncated: self.truncated, bytes }
    }
}

/// Appends an entry to `out`.
pub(super) fn encode(entry: &Entry, mark: &Mark, out: &mut Vec<u8>) {
    let e = &entry.exchange;
    let empty = Body::default();
    let description = Description {
        id: *e.id.as_bytes(),
        tenant: Cow::Borrowed(&e.scope.tenant),
        app: Cow::Borrowed(&e.scope.app),
        user: Cow::Borrowed(&e.scope.user),
        connection: e.connection,
        client_key: e.client_key.as_deref().map(Cow::Borrowed),
        method: Cow::Borrowed(&e.method),
        target: Cow::Borrowed(&e.target),
        upstream: Cow::Borrowed(&e.upstream),
        request_headers: &entry.request_headers,
        request: BodyLine::of(&e.request_body, &entry.request),
        response: e.response.as_ref().map(|r| (r.status, &entry.response_headers)),
        response_body: BodyLine::of(e.response.as_ref().map_or(&empty, |r| &r.body), &entry.response),
        started: e.timing.started.0,
        head: e.timing.head.map(|t| t.0),
        first_byte: e.timing.first_byte.map(|t| t.0),
        finished: e.timing.ended.0,
        ended: Cow::Borrowed(e.ended.as_str()),
        detail: e.detail.as_deref().map(Cow::Borrowed),
    };
    let at = out.len();
    out.extend_from_slice(mark);
    // Length, checksum and the description's length are filled in below.
    out.extend_from_slice(&[0; HEAD - size_of::<Mark>() + 4]);
    let described = out.len();
    *out = postcard::to_extend(&description, std::mem::take(out))
        .expect("all its types serialise, and a vector grows");
    let length = (out.len() - described) as u32;
    out[described - 4..described].copy_from_slice(&length.to_le_bytes());
    for piece in entry.request.iter().chain(&entry.response) {
        out.extend_from_slice(piece);
    }
    let rest = &out[at + HEAD..];
    let (length, checksum) = (rest.len() as u32, crc32fast::hash(rest));
    out[at + 8..at + 12].copy_from_slice(&length.to_le_bytes());
    out[at + 12..at + HEAD].copy_from_slice(&checksum.to_le_bytes());
}

/// What stands at the beginning of `bytes`.
pub(super) enum Read {
    /// An entry, and its length.
    Entry(Box<Exchange>, usize),
    /// The beginning of one: more may come.
    Partial,
    /// No entry.
    Damaged,
}

/// Reads the entry at the beginning of `bytes`.
pub(super) fn decode(bytes: &Bytes, mark: &Mark) -> Read {
    let marked = bytes.len().min(mark.len());
    if bytes[..marked] != mark[..marked] {
        return Read::Damaged;
    }
    let Some(head) = bytes.get(..HEAD) else { return Read::Partial };
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let length = number(8) as usize;
    let Some(rest) = bytes.get(HEAD..HEAD + length) else { return Read::Partial };
    if crc32fast::hash(rest) != number(12) {
        return Read::Damaged;
    }
    match described(&bytes.slice(HEAD..HEAD + length)) {
        Some(exchange) => Read::Entry(Box::new(exchange), HEAD + length),
        None => Read::Damaged,
    }
}

fn described(rest: &Bytes) -> Option<Exchange> {
    let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let d: Description<'_, Headers> = postcard::from_bytes(rest.get(4..4 + length)?).ok()?;
    let kept = |line: &BodyLine| usize::try_from(line.kept).ok();
    let from = 4 + length;
    let middle = from.checked_add(kept(&d.request)?)?;
    let end = middle.checked_add(kept(&d.response_body)?)?;
    if end != rest.len() {
        return None;
    }
    let response = match d.response {
        Some((status, headers)) => {
            Some(Response { status, headers, body: d.response_body.body(rest.slice(middle..end)) })
        }
        None => None,
    };
    Some(Exchange {
        id: ExchangeId::from_bytes(d.id),
        scope: Scope { tenant: d.tenant.into(), app: d.app.into(), user: d.user.into() },
        connection: d.connection,
        client_key: d.client_key.map(Cow::into_owned),
        method: d.method.into(),
        target: d.target.into(),
        upstream: d.upstream.into(),
        request_headers: d.request_headers,
        request_body: d.request.body(rest.slice(from..middle)),
        response,
        timing: Timing {
            started: Micros(d.started),
            head: d.head.map(Micros),
            first_byte: d.first_byte.map(Micros),
            ended: Micros(d.finished),
        },
        ended: d.ended.parse().unwrap_or(Ended::Interrupted),
        detail: d.detail.map(Cow::into_owned),
    })
}

/// Where the next entry may begin, at `from` or after it.
pub(super) fn next_mark(bytes: &[u8], mark: &Mark, from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(mark.len()).position(|w| w == mark).map(|at| from + at)
}
