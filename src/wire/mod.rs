//! Reads what crossed the proxy: OpenAI chat completions, completions, responses and embeddings, Anthropic messages,
//! plain and as event streams, whatever the content encoding.
//!
//! In: a recorded exchange. Out: a [`Reading`]. What stays true:
//! - Readers are lenient and never fail: what cannot be read is left out, and the raw bytes stay recorded.
//! - An answer assembled from a stream equals the answer that came whole, and both equal what the client sends back
//!   as history in its next request: text parts are joined with nothing between them, whatever the API.
//! - Nothing is guessed: an absent token count stays absent.

mod answer;
mod canonical;
mod chat;
mod completions;
mod content;
mod detect;
mod embeddings;
pub mod encoding;
mod fields;
mod hints;
mod messages;
mod reported;
mod responses;
pub mod sse;
mod tools;
pub mod websocket;

#[cfg(test)]
mod tests;

pub use canonical::canonical_json;

use serde_json::Value;

use crate::model::{Api, Exchange, Reading};
use answer::Answer;

/// Reads an exchange's bodies. Never fails and never panics, whatever the bytes; an unknown API gives
/// [`Api::Other`].
///
/// What is no call of a model (`GET`, stored objects, token counting) is `Other` too; where its answer has a known
/// shape, as a stored response does, that answer is read all the same.
#[must_use]
pub fn read(exchange: &Exchange) -> Reading {
    // What follows a switch of protocols is no request and no answer.
    if exchange.response.as_ref().is_some_and(|r| r.status == 101) {
        return Reading::default();
    }
    let sent = encoding::decode(&exchange.request_body.bytes, &exchange.request_headers);
    let request = fields::parse(&sent).unwrap_or(Value::Null);
    let received = exchange.response.as_ref().map(|r| (r, encoding::decode(&r.body.bytes, &r.headers)));
    let answer = received.as_ref().map_or(Answer::Absent, |(r, body)| Answer::of(&r.headers, body));
    let status = exchange.response.as_ref().map_or(0, |r| r.status);

    let answered = answer.api();
    let api = match detect::by_path(&exchange.method, &exchange.target) {
        // gateways serve stored prompts under paths that end like the legacy API's
        Some(Api::Completions) if answered == Some(Api::ChatCompletions) => Api::ChatCompletions,
        Some(api) => api,
        None => answered
            .or_else(|| answer.undecided().then(|| detect::by_request(&request)).flatten())
            .unwrap_or_default(),
    };

    let mut reading = Reading { api, stream: answer.is_stream(), ..Reading::default() };
    read_request(&request, &mut reading);
    if reading.model.is_none() {
        reading.model = detect::deployment(&exchange.target).map(String::from);
    }
    answer.read(if api == Api::Other { answered.unwrap_or_default() } else { api }, status, &mut reading);
    reading.choices.sort_by_key(|c| c.index);
    reading
}

fn read_request(request: &Value, into: &mut Reading) {
    into.model = fields::string(request, "model");
    hints::of_request(request, into);
    match into.api {
        Api::ChatCompletions => chat::request(request, into),
        Api::Completions => completions::request(request, into),
        Api::Responses => responses::request(request, into),
        Api::Embeddings => embeddings::request(request, into),
        Api::Messages => messages::request(request, into),
        Api::Other => {}
    }
}
