use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;

use super::{ClientBody, respond};
use crate::model::{ExchangeId, Feedback, Label, Micros, Scope, TrajectoryId};
use crate::store::{Store, StoreError};
use crate::{capture, tasks, trajectory};

/// Takes what people and downstream systems say about how things went. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FeedbackDesk {
    store: Store,
    /// Unknown ids make it look for new exchanges: once at a time, however many ask.
    catching_up: Arc<Mutex<()>>,
}

/// Where feedback may land: the tenant always, the app where one is named.
struct Place {
    tenant: String,
    app: Option<String>,
}

fn named(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .map(str::trim)
        .filter(|v| !v.is_empty())
        .map(str::to_owned)
}

/// What has just ended is found if it reaches the record within this time.
const PATIENCE: Duration = Duration::from_secs(5);
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
        Self { store, catching_up: Arc::default() }
    }

    /// `POST {response_id | exchange_id | session_id | trajectory_id, label?, reward?, correction?, comment?, source?}`:
    /// 202; 400 with the reason; 404 when nothing matches. The first id that resolves counts.
    pub(super) async fn take(&self, request: Request<ClientBody>) -> Response<Bytes> {
        if request.method() != Method::POST {
            let message = format!("{} takes POST with a JSON object", Self::PATH);
            return respond::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request_error",
                "method",
                &message,
            );
        }
        // Pages of other sites may make a browser post here, but not with this type, nor without their origin.
        let headers = request.headers();
        let json =
            headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
        if !json || headers.contains_key(header::ORIGIN) {
            let message = "feedback comes from servers, with content-type: application/json";
            return respond::error(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request_error",
                "content_type",
                message,
            );
        }
        let (tenant, app) = (named(headers, "x-remora-tenant"), named(headers, "x-remora-app"));
        let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return invalid(&format!("the body cannot be read: {e}")),
        };
        let desk = self.clone();
        let place = Place { tenant: tenant.unwrap_or_else(|| Scope::default().tenant), app };
        match tasks::blocking(move || desk.keep(&place, &body)).await {
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

impl FeedbackDesk {
    fn keep(&self, place: &Place, body: &[u8]) -> Result<TrajectoryId, Refusal> {
        let given: Given = serde_json::from_slice(body).map_err(|e| {
            Refusal::Invalid(format!("expected a JSON object with an id and a label or reward: {e}"))
        })?;
        let feedback = checked(&given)?;
        let find = || resolve(&self.store, place, &given).map_err(Refusal::Store);
        let (trajectory, exchange) = match find()? {
            Some(found) => found,
            None => {
                // It may be about an exchange that is recorded but not assembled yet.
                let _one = self.catching_up.lock().unwrap_or_else(PoisonError::into_inner);
                match find()? {
                    Some(found) => found,
                    None => {
                        // What cannot be settled in time is not found, and asked for again.
                        drop(capture::settle(self.store.dir(), PATIENCE));
                        trajectory::catch_up(&self.store).map_err(Refusal::Store)?;
                        find()?.ok_or(Refusal::NothingMatches)?
                    }
                }
            }
        };
        self.store.give_feedback(trajectory, exchange, &feedback).map_err(Refusal::Store)?;
        Ok(trajectory)
    }
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

fn resolve(store: &Store, place: &Place, given: &Given) -> Result<Found, StoreError> {
    let within = |id: TrajectoryId| -> Result<bool, StoreError> {
        let scope = store.trajectory(id)?.map(|t| t.scope);
        Ok(scope
            .is_some_and(|s| s.tenant == place.tenant && place.app.as_ref().is_none_or(|app| *app == s.app)))
    };
    if let Some(id) = &given.response_id
        && let Some((trajectory, exchange)) = store.find_response(id)?
        && within(trajectory)?
    {
        return Ok(Some((trajectory, Some(exchange))));
    }
    if let Some(id) = given.exchange_id.as_ref().and_then(|id| id.parse::<ExchangeId>().ok())
        && let Some(trajectory) = store.find_exchange(id)?
        && within(trajectory)?
    {
        return Ok(Some((trajectory, Some(id))));
    }
    if let Some(id) = &given.session_id
        && let Some(trajectory) = store.find_session(id, &place.tenant, place.app.as_deref())?
    {
        return Ok(Some((trajectory, None)));
    }
    if let Some(id) = given.trajectory_id.as_ref().and_then(|id| id.parse::<TrajectoryId>().ok())
        && within(id)?
    {
        return Ok(Some((id, None)));
    }
    Ok(None)
}
