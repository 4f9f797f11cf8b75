use std::path::PathBuf;

use crate::model::{AdapterId, AdapterState};
use crate::upstream::{SetupError, UpstreamError};

/// An adapter's files or the registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error("{path}: cannot {operation}: {source}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{path}: {reason}")]
    Damaged { path: PathBuf, reason: String },

    #[error("{path}: {key} is {value}, which Remora cannot use: {why}")]
    Unsupported { path: PathBuf, key: String, value: String, why: &'static str },

    #[error("{path}: no tensor {tensor}; layers may only be left out where layers_to_transform says so")]
    MissingTensor { path: PathBuf, tensor: String },

    #[error("{path}: {tensor} belongs to none of the projections that Remora knows ({known})")]
    ForeignTensor { path: PathBuf, tensor: String, known: String },

    #[error("{path}: {tensor} has shape {found:?}, this model needs {expected:?}")]
    Shape { path: PathBuf, tensor: String, found: Vec<usize>, expected: [usize; 2] },

    #[error("{path}: there is something already; adapters are never overwritten")]
    Exists { path: PathBuf },

    #[error("the adapter has {found} layers of {len} elements, the model needs {layers} of {expected}")]
    Model { found: usize, len: usize, layers: usize, expected: usize },

    #[error("no adapter {given:?}: `remora adapters list` shows them")]
    NoAdapter { given: String },

    #[error("{given:?} could be any of {ids}: write more of the id")]
    Ambiguous { given: String, ids: String },

    #[error("no alias {name:?}{known}")]
    NoAlias { name: String, known: String },

    #[error("{name:?} is no name for an alias: {why}")]
    AliasName { name: String, why: &'static str },

    #[error("the alias {alias} belongs to {owner}; an adapter of {scope} needs another")]
    AliasOfAnother { alias: String, owner: String, scope: String },

    #[error("the alias {alias} is at its beginning: there is nothing to go back to")]
    NothingBefore { alias: String },

    #[error("{id} is active as {alias}: roll back or promote another before it is {state}")]
    InUse { id: AdapterId, alias: String, state: AdapterState },

    #[error("{id} becomes active by being promoted to an alias, not by a decision")]
    NotByDecision { id: AdapterId },

    #[error("another promotion or rollback is under way (it holds {path}); try again when it is done")]
    Busy { path: PathBuf },

    #[error(transparent)]
    Swap(Box<SwapError>),
}

/// A server did not take an adapter. What it served before, it still serves, unless the message says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    #[error(transparent)]
    Setup(#[from] SetupError),

    #[error(transparent)]
    Unreachable(#[from] UpstreamError),

    #[error("{url}: {operation} broke off: {reason}")]
    Broken { url: String, operation: String, reason: String },

    #[error("{url}: {operation} was not answered within {}", humantime::format_duration(*after))]
    Timeout { url: String, operation: String, after: std::time::Duration },

    #[error("{url}: {operation} was refused with {status}: {said}{hint}")]
    Refused { url: String, operation: String, status: u16, said: String, hint: &'static str },

    #[error(
        "{url}: it said that {name} was loaded, but /v1/models {found}; what was there before {restored}"
    )]
    NotThere { url: String, name: String, found: String, restored: String },

    #[error("{url}: /v1/models answered what is no list of models: {said}")]
    Models { url: String, said: String },

    #[error("{path}: a server cannot be told of a path that is not UTF-8", path = path.display())]
    Path { path: PathBuf },

    #[error("{first}; and then, going back: {second}")]
    Twice { first: Box<SwapError>, second: Box<SwapError> },
}

impl From<SwapError> for AdapterError {
    fn from(error: SwapError) -> Self {
        Self::Swap(Box::new(error))
    }
}

impl AdapterError {
    /// For `map_err`: what was done to which file.
    pub(super) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}
