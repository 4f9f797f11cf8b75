use axum::response::Response;
use http::StatusCode;

use super::error::{ApiError, reply};
use super::frame::{Frame, Usage};
use crate::serve::calls::{Call, Calls, Part};
use crate::serve::scheduler::{Answer, Event, Finish};
use crate::serve::voice::Told;

struct Choice {
    calls: Calls,
    text: String,
    made: Vec<Call>,
    told: Vec<Told>,
    finish: Finish,
}

impl Choice {
    fn take(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Text(text) => self.text.push_str(&text),
                Part::Call(call) => self.made.push(call),
            }
        }
    }
}

/// Collects an answer whole.
pub(super) async fn respond(
    frame: &Frame,
    calls: &Calls,
    mut answer: Answer,
    first: Event,
) -> Result<Response, ApiError> {
    let choice = || Choice {
        calls: calls.clone(),
        text: String::new(),
        made: Vec::new(),
        told: Vec::new(),
        finish: Finish::Stop,
    };
    let mut choices: Vec<Choice> = std::iter::repeat_with(choice).take(frame.answers).collect();
    let mut usage = Usage::default();
    let mut event = first;
    loop {
        match event {
            Event::Said { choice, text, told } => {
                let choice = &mut choices[choice];
                let parts = choice.calls.read(&text);
                choice.take(parts);
                choice.told.extend(told);
            }
            Event::Ended { choice, finish, tokens, cached } => {
                let ended = &mut choices[choice];
                let parts = ended.calls.end();
                ended.take(parts);
                ended.finish = finish;
                usage.ended(frame, choice, tokens, cached);
            }
            Event::Failed(failure) => return Err(failure.into()),
        }
        if usage.ended == frame.answers {
            break;
        }
        event = answer.next().await.ok_or_else(ApiError::stopping)?;
    }
    let choices = choices.iter().enumerate().map(|(index, choice)| {
        let reason = choice.calls.reason(choice.finish);
        frame.choice(index, &choice.text, &choice.made, &choice.told, reason)
    });
    Ok(reply(StatusCode::OK, &frame.whole(choices.collect(), usage)))
}
