//! A response's body in one of the forms that readers know, and the way into the readers.

use serde_json::Value;

use super::sse::{self, Event};
use super::{chat, completions, detect, fields, hints, messages, reported, responses};
use crate::model::{Api, Headers, Reading};

/// What came back. The flag of the first two says whether it was declared an event stream.
pub(super) enum Answer<'a> {
    /// No response, or one without a body.
    Absent,
    Whole(Value, bool),
    Stream(Vec<Event>, bool),
    /// Neither JSON nor events.
    Opaque(&'a [u8], bool),
}

/// Adds up the events of one API's stream.
pub(super) trait Deltas: Default {
    /// Takes an event's data; `kind` is its `type` field, or else the event's name.
    fn push(&mut self, kind: &str, data: &Value, into: &mut Reading);

    /// Puts what was added up into the reading, be the stream whole or torn.
    fn finish(self, into: &mut Reading);
}

impl<'a> Answer<'a> {
    pub fn of(headers: &Headers, body: &'a [u8]) -> Self {
        let declared = headers.get("content-type").map(|t| {
            t.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("text/event-stream"))
        });
        if body.is_empty() {
            return if declared == Some(true) { Self::Stream(Vec::new(), true) } else { Self::Absent };
        }
        if declared == Some(true) || sse::looks_like(body) {
            let events = sse::events(body);
            if !events.is_empty() {
                return Self::Stream(events, declared.unwrap_or(true));
            }
        }
        let stream = declared.unwrap_or(false);
        fields::parse(body).map_or(Self::Opaque(body, stream), |value| Self::Whole(value, stream))
    }

    pub fn is_stream(&self) -> bool {
        match self {
            Self::Absent => false,
            Self::Whole(_, stream) | Self::Stream(_, stream) | Self::Opaque(_, stream) => *stream,
        }
    }

    /// The API that the answer's shape speaks for.
    pub fn api(&self) -> Option<Api> {
        match self {
            Self::Whole(body, _) => detect::by_answer(body),
            // pings, errors and chunks of a gateway's own may come first
            Self::Stream(events, _) => {
                events.iter().take(16).filter_map(data).find_map(|data| detect::by_answer(&data))
            }
            Self::Absent | Self::Opaque(..) => None,
        }
    }

    /// Whether the answer leaves open which API this is: there is none, or only an error.
    pub fn undecided(&self) -> bool {
        match self {
            Self::Whole(body, _) => reported::error(body, true).is_some(),
            Self::Stream(events, _) => events.is_empty(),
            Self::Absent | Self::Opaque(..) => true,
        }
    }

    /// Reads the answer as one of `api`; of an unknown one only what all have in common.
    pub fn read(&self, api: Api, status: u16, into: &mut Reading) {
        match self {
            Self::Absent => {}
            Self::Opaque(body, _) if status >= 400 => into.error = reported::error_text(body),
            Self::Opaque(..) => {}
            Self::Whole(body, _) => read_whole(body, api, status, into),
            Self::Stream(events, _) => match api {
                Api::ChatCompletions => add_up::<chat::Chunks>(events, into),
                Api::Completions => add_up::<completions::Chunks>(events, into),
                Api::Responses => add_up::<responses::Events>(events, into),
                Api::Messages => add_up::<messages::Events>(events, into),
                Api::Embeddings | Api::Other => add_up::<Unknown>(events, into),
            },
        }
    }
}

fn read_whole(body: &Value, api: Api, status: u16, into: &mut Reading) {
    into.finished = true;
    into.error = reported::error(body, status >= 400);
    into.usage = reported::usage(body);
    into.response_model = fields::string(body, "model");
    hints::of_answer(body, into);
    if api != Api::Other {
        into.response_id = fields::string(body, "id");
    }
    match api {
        Api::ChatCompletions => chat::answer(body, into),
        Api::Completions => completions::answer(body, into),
        Api::Responses => responses::answer(body, into),
        Api::Messages => messages::answer(body, into),
        Api::Embeddings | Api::Other => {}
    }
}

fn add_up<D: Deltas>(events: &[Event], into: &mut Reading) {
    let mut deltas = D::default();
    for event in events {
        if event.data.trim() == "[DONE]" {
            into.finished = true;
            continue;
        }
        let Some(data) = data(event) else { continue };
        let kind = fields::str(&data, "type").unwrap_or(&event.name);
        if let Some(error) = reported::error(&data, kind == "error") {
            into.error = Some(error);
        }
        hints::of_answer(&data, into);
        deltas.push(kind, &data, into);
    }
    deltas.finish(into);
}

fn data(event: &Event) -> Option<Value> {
    fields::parse(event.data.as_bytes())
}

#[derive(Default)]
struct Unknown;

impl Deltas for Unknown {
    fn push(&mut self, _: &str, _: &Value, _: &mut Reading) {}
    fn finish(self, _: &mut Reading) {}
}
