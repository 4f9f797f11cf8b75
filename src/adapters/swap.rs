use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use serde::Deserialize;
use serde_json::{Value, json};

use super::SwapError;
use crate::config::{self, SwapTarget};
use crate::upstream::{HttpUpstream, Setup};

type Result<T> = std::result::Result<T, SwapError>;

/// A server that loads adapters while it serves, over vLLM's API
/// (<https://docs.vllm.ai/en/latest/features/lora.html>), which `remora serve` speaks as well: `POST
/// /v1/load_lora_adapter`, `POST /v1/unload_lora_adapter`, `GET /v1/models`.
pub struct Server {
    http: HttpUpstream<Full<Bytes>>,
    target: SwapTarget,
}

/// A model that a server lists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServedModel {
    pub id: String,
    /// Where it was loaded from: an adapter's path.
    #[serde(default)]
    pub root: Option<String>,
}

/// An adapter on its way under an alias.
#[derive(Clone, Copy, Debug)]
pub struct Swap<'a> {
    pub alias: &'a str,
    /// A name that only this adapter has: under it the server tries the files first.
    pub version: &'a str,
    /// Its PEFT directory.
    pub path: &'a Path,
    /// That of the adapter that the alias stands for now.
    pub former: Option<&'a Path>,
}

/// Of an answer no more than this is read.
const ANSWER: usize = 1 << 20;
/// Of what a server says in an error, this many characters are passed on.
const SAID: usize = 400;
const CONNECT: config::Span = config::Span::secs(10);

impl Server {
    /// For a configured target; connects to nothing yet. `at` is its YAML path.
    ///
    /// # Errors
    /// When the connection cannot be set up.
    pub fn build(target: &SwapTarget, at: &str, setup: &Setup) -> Result<Self> {
        let upstream = config::Upstream {
            url: target.url.clone(),
            connect_timeout: CONNECT,
            response_timeout: target.timeout,
            ..config::Upstream::default()
        };
        Ok(Self { http: HttpUpstream::build(&upstream, at, setup)?, target: target.clone() })
    }

    #[must_use]
    pub fn url(&self) -> &str {
        self.http.url()
    }

    /// The models and adapters that it answers for.
    ///
    /// # Errors
    /// When it does not answer, or with something else.
    pub async fn models(&self) -> Result<Vec<ServedModel>> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<ServedModel>,
        }
        let answer = self.call(Method::GET, "/v1/models", None, "the list of models").await?;
        let list: List = serde_json::from_slice(&answer)
            .map_err(|_| SwapError::Models { url: self.url().to_owned(), said: said(&answer) })?;
        Ok(list.data)
    }

    /// Loads a PEFT directory under a name; in place: over an adapter that has that name, between two tokens.
    ///
    /// # Errors
    /// When the server refuses it; then nothing has changed there.
    pub async fn load(&self, name: &str, path: &Path, in_place: bool) -> Result<()> {
        let path = self.seen_there(path)?;
        let body = json!({"lora_name": name, "lora_path": path, "load_inplace": in_place});
        let what = format!("loading {path} as {name}");
        self.call(Method::POST, "/v1/load_lora_adapter", Some(body), &what).await.map(drop)
    }

    /// Forgets a name.
    ///
    /// # Errors
    /// When the server does not have it.
    pub async fn unload(&self, name: &str) -> Result<()> {
        let body = json!({"lora_name": name});
        let what = format!("unloading {name}");
        self.call(Method::POST, "/v1/unload_lora_adapter", Some(body), &what).await.map(drop)
    }

    /// Makes the alias answer with another adapter, without a request in between that fails: the files are tried under
    /// the version's name, then the alias moves in place, and `/v1/models` must show it.
    ///
    /// # Errors
    /// When the server refuses, or does not do as it says. What the alias stood for before, it stands for still.
    ///
    /// # Cancel safety
    /// Dropped in the middle, the alias has moved or has not; the version's name may stay behind, which the next swap
    /// of this adapter takes up.
    pub async fn swap(&self, swap: Swap<'_>) -> Result<()> {
        let served = self.models().await?;
        let has = |name: &str| served.iter().any(|model| model.id == name);
        self.load(swap.version, swap.path, has(swap.version)).await?;
        let moved = self.move_alias(&swap, has(swap.alias)).await;
        // Either way the version's name has done its work. That it stays costs a place in the server, not an answer.
        if let Err(error) = self.unload(swap.version).await {
            tracing::warn!(%error, "an adapter's own name stays behind");
        }
        moved
    }

    async fn move_alias(&self, swap: &Swap<'_>, was_there: bool) -> Result<()> {
        match self.load(swap.alias, swap.path, was_there).await {
            Ok(()) => {}
            Err(refused @ SwapError::Refused { .. }) => return Err(refused),
            // It may have done it all the same.
            Err(first) => {
                return Err(match self.restore(swap, was_there).await {
                    Ok(()) => first,
                    Err(second) => SwapError::Twice { first: Box::new(first), second: Box::new(second) },
                });
            }
        }
        let expected = self.seen_there(swap.path)?;
        let found = match self.models().await?.into_iter().find(|model| model.id == swap.alias) {
            None => "does not list it".to_owned(),
            // Servers that say nothing of where a model came from are believed.
            Some(ServedModel { root: None, .. }) => return Ok(()),
            Some(ServedModel { root: Some(root), .. }) if Path::new(&root) == Path::new(&expected) => {
                return Ok(());
            }
            Some(ServedModel { root: Some(root), .. }) => format!("shows it from {root}"),
        };
        let restored = match self.restore(swap, was_there).await {
            Ok(()) => "is back".to_owned(),
            Err(error) => format!("could not be brought back: {error}"),
        };
        Err(SwapError::NotThere { url: self.url().to_owned(), name: swap.alias.to_owned(), found, restored })
    }

    /// Makes the alias stand for what it stood for before.
    async fn restore(&self, swap: &Swap<'_>, was_there: bool) -> Result<()> {
        match swap.former {
            Some(former) if was_there => self.load(swap.alias, former, true).await,
            _ => match self.unload(swap.alias).await {
                // It never came to be there.
                Err(SwapError::Refused { .. }) => Ok(()),
                done => done,
            },
        }
    }

    /// A path of ours as the server sees it. Ours are `<data>/adapters/<name>`.
    fn seen_there(&self, path: &Path) -> Result<String> {
        let there = match (&self.target.directory, path.file_name()) {
            (Some(directory), Some(name)) => directory.join(name),
            _ => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        there.to_str().map(str::to_owned).ok_or_else(|| SwapError::Path { path: there.clone() })
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>, what: &str) -> Result<Bytes> {
        let (url, operation) = (|| self.url().to_owned(), || what.to_owned());
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = &self.target.api_key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", key.reveal()));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(Full::new(body)).map_err(|e| SwapError::Broken {
            url: url(),
            operation: operation(),
            reason: e.to_string(),
        })?;
        let after: Duration = self.target.timeout.0;
        let answer = async {
            let response = self.http.send(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER).collect().await.map_err(|e| SwapError::Broken {
                url: url(),
                operation: operation(),
                reason: e.to_string(),
            })?;
            Ok((head.status, body.to_bytes()))
        };
        let (status, answer) = tokio::time::timeout(after, answer)
            .await
            .unwrap_or_else(|_| Err(SwapError::Timeout { url: url(), operation: operation(), after }))?;
        if status.is_success() {
            return Ok(answer);
        }
        let hint = match status.as_u16() {
            404 | 405 if path != "/v1/models" && !mentions_adapter(&answer) => {
                " (vLLM needs --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=true)"
            }
            401 | 403 => " (adapters.targets[].api_key holds the key)",
            _ => "",
        };
        Err(SwapError::Refused {
            url: url(),
            operation: operation(),
            status: status.as_u16(),
            said: said(&answer),
            hint,
        })
    }
}

/// Whether a 404 is about an adapter rather than about the address.
fn mentions_adapter(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).to_lowercase().contains("adapter")
}

/// The message of an error as OpenAI-like servers write it, or the answer's beginning; on one line.
fn said(answer: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(answer).ok();
    let message = json.as_ref().and_then(|json| {
        [json.pointer("/error/message"), json.get("message"), json.get("detail")]
            .into_iter()
            .flatten()
            .find_map(Value::as_str)
    });
    let text = message.map_or_else(|| String::from_utf8_lossy(answer).into_owned(), str::to_owned);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "nothing".to_owned() } else { line.chars().take(SAID).collect() }
}
