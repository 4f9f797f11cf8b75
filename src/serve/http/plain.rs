use axum::response::Response;
use http::StatusCode;

use super::error::{ApiError, reply};
use super::frame::{Frame, Usage};
use crate::serve::scheduler::{Answer, Event, Finish};
use crate::serve::voice::Told;

#[derive(Default)]
struct Choice {
    text: String,
    told: Vec<Told>,
    finish: Option<Finish>,
}

/// Collects an answer whole.
pub(super) async fn respond(frame: &Frame, mut answer: Answer, first: Event) -> Result<Response, ApiError> {
    let mut choices: Vec<Choice> = std::iter::repeat_with(Choice::default).take(frame.answers).collect();
    let mut usage = Usage::default();
    let mut event = first;
    loop {
        match event {
            Event::Said { choice, text, told } => {
                choices[choice].text.push_str(&text);
                choices[choice].told.extend(told);
            }
            Event::Ended { choice, finish, tokens, cached } => {
                choices[choice].finish = Some(finish);
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
        frame.choice(index, &choice.text, &choice.told, choice.finish.unwrap_or(Finish::Stop))
    });
    Ok(reply(StatusCode::OK, &frame.whole(choices.collect(), usage)))
}
