use std::path::Path;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::ask::{Asked, fits};
use super::error::ApiError;
use super::frame::{Frame, Shape, Tell};
use super::{plain, stream};
use crate::config;
use crate::model::Scope;
use crate::onnx::lora::Lora;
use crate::serve::calls::{Callable, Calls};
use crate::serve::grammar::Grammars;
use crate::serve::names::{Meaning, Names};
use crate::serve::sampling::Sampling;
use crate::serve::scheduler::{Order, Scheduler};
use crate::serve::text::Text;
use crate::tasks;

/// Reads an adapter's files; the error is told to the client.
pub type LoadAdapter = Arc<dyn Fn(&Path) -> Result<Lora, String> + Send + Sync>;

/// What handlers have at hand.
pub(in crate::serve) struct Desk {
    pub names: Names,
    pub scheduler: Scheduler,
    pub text: Arc<dyn Text>,
    pub grammars: Grammars,
    pub context: usize,
    /// How scopes come by their aliases; none: they have none here.
    pub aliases: Option<config::Adapters>,
    /// None: adapters cannot be loaded over HTTP.
    pub load: Option<LoadAdapter>,
    /// What `/v1` asks for as a bearer token.
    pub key: Option<String>,
    /// Only this machine reaches the server.
    pub local: bool,
    /// Prompts are rendered and schemas compiled on so many threads at once.
    pub preparing: Semaphore,
}

/// A request as far as it was read without the tokenizer.
pub(super) struct Wanted {
    pub shape: Shape,
    pub asked: Asked,
    pub prompts: Prompts,
    pub logprobs: Option<usize>,
    /// Tokens of an answer where none were asked for; none: what is left of the context.
    pub usual_limit: Option<usize>,
    /// The parameter that prompts come from.
    pub param: &'static str,
    /// The tools that an answer may call; none: it is text.
    pub callable: Option<Callable>,
    /// The schema of an answer that has to be a call.
    pub required: Option<Value>,
}

/// Makes prompts of tokens; slow.
pub(super) type Prompts = Box<dyn FnOnce(&dyn Text) -> Result<Vec<Vec<u32>>, ApiError> + Send>;

impl Desk {
    /// Answers a request that wants text.
    pub(super) async fn answer(
        self: Arc<Self>,
        headers: &HeaderMap,
        wanted: Wanted,
    ) -> Result<Response, ApiError> {
        let name = wanted.asked.model.clone().ok_or_else(|| {
            ApiError::param("model", "you must provide a model parameter").code("missing_required_parameter")
        })?;
        let adapter = match self.names.meaning(&name) {
            Some(Meaning::Base) => None,
            Some(Meaning::Adapter(adapter)) => Some(adapter.lora.clone()),
            None if self.is_alias_of(headers, &name) => None,
            None => return Err(ApiError::no_such_model(&name)),
        };
        let (shape, logprobs) = (wanted.shape, wanted.logprobs);
        // An answer that follows a format is not a call, though it may look like one.
        let schema = wanted.asked.schema()?;
        let calls = Calls::of(wanted.callable.clone().filter(|_| schema.is_none()));
        let (streams, with_usage) = (wanted.asked.streams(), wanted.asked.with_usage());
        let numbers = wanted.asked.return_tokens_as_token_ids.unwrap_or(false);
        let permit = self.preparing.acquire().await.map_err(|_| ApiError::stopping())?;
        let desk = self.clone();
        let order = tasks::blocking(move || desk.prepare(wanted, schema, adapter)).await;
        drop(permit);
        let order = order.ok_or_else(|| ApiError::ours("the request could not be prepared"))??;
        let tell = logprobs.map(|_| if numbers { Tell::Numbers } else { Tell::Text });
        let frame = Frame::new(shape, name, &order, tell, self.text.clone());
        let mut answer = self.scheduler.submit(order)?;
        // Until the first token there can still be a status that says what went wrong.
        let first = answer.next().await.ok_or_else(ApiError::stopping)?;
        if streams {
            Ok(stream::respond(frame, &calls, answer, first, with_usage)?)
        } else {
            Ok(plain::respond(&frame, &calls, answer, first).await?.into_response())
        }
    }

    /// Whether a name is the alias of the scope that the headers tell: apps use theirs before anything was learned.
    fn is_alias_of(&self, headers: &HeaderMap, name: &str) -> bool {
        let Some(aliases) = &self.aliases else { return false };
        let scope = Scope::of_headers(|header| headers.get(header)?.to_str().ok());
        aliases.alias_of(&scope.tenant, &scope.app) == name
    }

    /// Renders, tokenizes, compiles: on a blocking thread.
    fn prepare(
        &self,
        wanted: Wanted,
        schema: Option<Value>,
        adapter: Option<Arc<Lora>>,
    ) -> Result<Order, ApiError> {
        let Wanted { asked, prompts, logprobs, usual_limit, param, required, .. } = wanted;
        let choices = asked.choices()?;
        let sampling: Sampling = asked.sampling(logprobs)?;
        let stops = asked.stops()?;
        let (schema, of) = match (schema, required) {
            (Some(_), Some(_)) => {
                let message = "'response_format' cannot be followed by an answer that 'tool_choice' wants to be a call.";
                return Err(ApiError::param("tool_choice", message));
            }
            (schema, None) => (schema, "response_format"),
            (None, required) => (required, "tools"),
        };
        let limit = asked.limit()?;
        let prompts = prompts(&*self.text)?;
        for prompt in &prompts {
            if prompt.is_empty() {
                return Err(ApiError::param(param, format!("Invalid '{param}': it is empty.")));
            }
            if let Some(token) = prompt.iter().find(|token| **token as usize >= self.text.vocabulary()) {
                return Err(ApiError::param(param, format!("Invalid '{param}': there is no token {token}.")));
            }
            fits(prompt.len(), limit.map(|(limit, _)| limit), self.context, param)?;
        }
        let grammar = schema
            .map(|schema| self.grammars.compile(&schema))
            .transpose()
            .map_err(|reason| ApiError::param(of, format!("Invalid schema for '{of}': {reason}")))?;
        Ok(Order {
            prompts,
            choices,
            limit: limit.map(|(limit, _)| limit).or(usual_limit).unwrap_or(self.context),
            adapter,
            sampling,
            stops,
            stop_tokens: asked.stop_tokens(&*self.text),
            grammar,
        })
    }
}
