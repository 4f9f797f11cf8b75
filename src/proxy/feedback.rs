use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::respond;
use crate::model::{ExchangeId, Feedback, Label, Micros, TrajectoryId};
use crate::store::{Store, StoreError};
use crate::{tasks, trajectory};

/// Takes what people and downstream systems say about how things went. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FeedbackDesk {
    store: Store,
}

/// Bytes; a correction may be a whole answer.
const MAX_BODY: usize = 1 << 20;

#[derive(Debug, Deserialize)]
struct Given {
    response_id: Option<String>,
    exchange_id: Option<String>,
    session_id: Option<String>,
    trajectory_id: Option<String>,
    label: Option<String>,
    reward: Option<f64>,
    correction: Option<String>,
    comment: Option<String>,
    source: Option<String>,
}

/// Why feedback is refused.
enum Refusal {
    Invalid(String),
    NothingMatches,
    Store(StoreError),
}

impl FeedbackDesk {
    pub(super) const PATH: &'static str = "/remora/v1/feedback";

    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// `POST {response_id | exchange_id | session_id | trajectory_id, label?, reward?, correction?, comment?, source?}`:
    /// 202; 400 with the reason; 404 when nothing matches. The first id that resolves counts.
    pub(super) async fn take(&self, request: Request<Incoming>) -> Response<Bytes> {
        if request.method() != Method::POST {
            let message = format!("{} takes POST with a JSON object", Self::PATH);
            return respond::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request_error",
                "method",
                &message,
            );
        }
        let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return invalid(&format!("the body cannot be read: {e}")),
        };
        let store = self.store.clone();
        match tasks::blocking(move || keep(&store, &body)).await {
            Some(Ok(id)) => respond::json(StatusCode::ACCEPTED, &json!({"trajectory_id": id})),
            Some(Err(Refusal::Invalid(reason))) => invalid(&reason),
            Some(Err(Refusal::NothingMatches)) => {
                let message = "no recorded exchange, session or trajectory has one of these ids";
                respond::error(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
            }
            Some(Err(Refusal::Store(error))) => {
                tracing::warn!(%error, "feedback cannot be kept");
                let message = format!("the feedback cannot be kept: {error}");
                respond::error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "store", &message)
            }
            None => respond::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                "panic",
                "keeping the feedback failed",
            ),
        }
    }
}

fn invalid(reason: &str) -> Response<Bytes> {
    respond::error(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_feedback", reason)
}

fn keep(store: &Store, body: &[u8]) -> Result<TrajectoryId, Refusal> {
    let given: Given = serde_json::from_slice(body).map_err(|e| {
        Refusal::Invalid(format!("expected a JSON object with an id and a label or reward: {e}"))
    })?;
    let feedback = checked(&given)?;
    let find = || resolve(store, &given);
    let (trajectory, exchange) = match find().map_err(Refusal::Store)? {
        Some(found) => found,
        None => {
            // It may be about an exchange that is recorded but not assembled yet.
            trajectory::catch_up(store).map_err(Refusal::Store)?;
            find().map_err(Refusal::Store)?.ok_or(Refusal::NothingMatches)?
        }
    };
    store.give_feedback(trajectory, exchange, &feedback).map_err(Refusal::Store)?;
    Ok(trajectory)
}

fn checked(given: &Given) -> Result<Feedback, Refusal> {
    let invalid = |reason: &str| Err(Refusal::Invalid(reason.into()));
    if [&given.response_id, &given.exchange_id, &given.session_id, &given.trajectory_id]
        .iter()
        .all(|id| id.is_none())
    {
        return invalid("name what it is about: response_id, exchange_id, session_id or trajectory_id");
    }
    let label = match given.label.as_deref() {
        None => None,
        Some(text @ ("success" | "failure" | "partial")) => text.parse::<Label>().ok(),
        Some(other) => return invalid(&format!("label {other:?} is none of success, failure, partial")),
    };
    if let Some(reward) = given.reward
        && !(0.0..=1.0).contains(&reward)
    {
        return invalid(&format!("reward {reward} is not within 0 and 1"));
    }
    if label.is_none() && given.reward.is_none() && given.correction.is_none() && given.comment.is_none() {
        return invalid("say something: label, reward, correction or comment");
    }
    Ok(Feedback {
        label,
        reward: given.reward,
        correction: given.correction.clone(),
        comment: given.comment.clone(),
        source: given.source.clone().filter(|s| !s.is_empty()).unwrap_or_else(|| "user".into()),
        given: Micros::now(),
    })
}

type Found = Option<(TrajectoryId, Option<ExchangeId>)>;

fn resolve(store: &Store, given: &Given) -> Result<Found, StoreError> {
    if let Some(id) = &given.response_id
        && let Some((trajectory, exchange)) = store.find_response(id)?
    {
        return Ok(Some((trajectory, Some(exchange))));
    }
    if let Some(id) = given.exchange_id.as_ref().and_then(|id| id.parse::<ExchangeId>().ok())
        && let Some(trajectory) = store.find_exchange(id)?
    {
        return Ok(Some((trajectory, Some(id))));
    }
    if let Some(id) = &given.session_id
        && let Some(trajectory) = store.find_session(id)?
    {
        return Ok(Some((trajectory, None)));
    }
    if let Some(id) = given.trajectory_id.as_ref().and_then(|id| id.parse::<TrajectoryId>().ok())
        && store.trajectory(id)?.is_some()
    {
        return Ok(Some((id, None)));
    }
    Ok(None)
}
