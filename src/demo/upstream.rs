use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Response, StatusCode, Uri, header};
use axum::routing::{get, post};
use bytes::Bytes;
use hyper::body::Frame as BodyFrame;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Sleep;

use super::answer::{Answer, Call, Frame};
use super::draw::{SEED, draw};
use super::error::DemoError;
use super::policy::{self, Turn};
use crate::model::Micros;

/// The only model that the scripted server has.
pub(super) const MODEL: &str = "desk-model-1";

/// How the scripted model behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Decides which conversations go wrong.
    pub seed: u64,
    /// Goes into the ids of answers and into nothing else, so that two demos on one data directory share no id.
    pub run: u64,
    pub pace: Pace,
}

/// How fast the model speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Before the first byte.
    pub thinking: Duration,
    /// Before each further event of a stream.
    pub event: Duration,
}

impl Default for Script {
    fn default() -> Self {
        let pace = Pace { thinking: Duration::from_millis(15), event: Duration::from_millis(2) };
        Self { seed: SEED, run: 0, pace }
    }
}

/// An OpenAI-compatible server behind which a policy plays the model. Bound, but not yet serving.
#[derive(Debug)]
#[must_use = "a model answers only while it is served"]
pub struct Model {
    listener: TcpListener,
    address: SocketAddr,
    script: Script,
}

impl Model {
    /// Binds the server; port 0 picks a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, script: Script) -> Result<Self, DemoError> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| DemoError::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| DemoError::Listen { address, source })?;
        Ok(Self { listener, address, script })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `stop` is done and what was begun has ended. To be run as a task of its own, or beside
    /// the client in one.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), DemoError> {
        let address = self.address;
        let router = axum::Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .fallback(unknown_route)
            .with_state(Arc::new(self.script));
        axum::serve(self.listener, router)
            .with_graceful_shutdown(stop)
            .await
            .map_err(|source| DemoError::Listen { address, source })
    }
}

async fn models() -> Response<Body> {
    let model = json!({"id": MODEL, "object": "model", "created": 0, "owned_by": "remora-demo"});
    reply(StatusCode::OK, &json!({"object": "list", "data": [model]}))
}

async fn unknown_route(method: Method, uri: Uri) -> Response<Body> {
    let message = format!("Invalid URL ({method} {})", uri.path());
    refuse(StatusCode::NOT_FOUND, "invalid_request_error", None, &message)
}

async fn chat(State(script): State<Arc<Script>>, body: Bytes) -> Response<Body> {
    let invalid = |message: &str| refuse(StatusCode::BAD_REQUEST, "invalid_request_error", None, message);
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return invalid("We could not parse the JSON body of your request.");
    };
    let Some(messages) = request["messages"].as_array().filter(|m| !m.is_empty()) else {
        return invalid("Missing required parameter: 'messages'.");
    };
    match request["model"].as_str() {
        None => return invalid("you must provide a model parameter"),
        Some(MODEL) => {}
        Some(other) => {
            let message = format!("The model `{other}` does not exist or you do not have access to it.");
            return refuse(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), &message);
        }
    }
    tokio::time::sleep(script.pace.thinking).await;
    let Some(answer) = answer(&script, messages) else {
        let message = "The engine is currently overloaded, please try again later";
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("engine_overloaded"), message);
    };
    let frame = Frame {
        model: MODEL.to_owned(),
        created: Micros::now().0 / 1_000_000,
        prompt_tokens: tokens(&body),
        completion_tokens: tokens(answer.message().to_string().as_bytes()),
    };
    if request["stream"] != true {
        return reply(StatusCode::OK, &answer.plain(&frame));
    }
    let with_usage = request["stream_options"]["include_usage"] == true;
    let events = answer.events(&frame, with_usage).into_iter().map(Bytes::from).collect();
    Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")
        .header(header::CACHE_CONTROL, "no-cache")
        .header("x-request-id", format!("req_{}", &answer.id[9..]))
        .body(Body::new(Paced { events, pause: script.pace.event, sleep: None }))
        .expect("the headers are constants and hexadecimal digits")
}

/// The model's answer to a conversation; none where its server gives up.
fn answer(script: &Script, messages: &[Value]) -> Option<Answer> {
    let turn = policy::next(script.seed, messages);
    let said = Value::from(messages).to_string();
    let digits = format!("{:016x}", draw(script.run ^ script.seed.rotate_left(32), "id", &said));
    let mut answer =
        Answer { id: format!("chatcmpl-{digits}"), finish: "stop".to_owned(), ..Answer::default() };
    match turn {
        Turn::Say(text) => answer.content = Some(text),
        Turn::CutOff(text) => {
            answer.content = Some(text);
            answer.finish = "length".to_owned();
        }
        Turn::Call { tool, arguments } => {
            let id = format!("call_{digits}");
            answer.calls = vec![Call { id, name: tool.to_owned(), arguments: arguments.to_string() }];
            answer.finish = "tool_calls".to_owned();
        }
        Turn::Overloaded => return None,
    }
    Some(answer)
}

/// About as many tokens as a tokenizer would count.
fn tokens(text: &[u8]) -> usize {
    text.len().div_ceil(4)
}

fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .expect("the headers are constants")
}

/// An error in the form of the API.
fn refuse(status: StatusCode, kind: &str, code: Option<&str>, message: &str) -> Response<Body> {
    reply(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}

/// A stream of events with a pause before each but the first.
struct Paced {
    events: VecDeque<Bytes>,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(context));
        }
        let pause = self.pause;
        self.sleep = (!pause.is_zero()).then(|| Box::pin(tokio::time::sleep(pause)));
        Poll::Ready(self.events.pop_front().map(|event| Ok(BodyFrame::data(event))))
    }
}
