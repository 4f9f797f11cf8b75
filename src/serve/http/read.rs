//! From bytes to checked parameters: what is not known is ignored, what is wrong is named by its path.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http::{Request, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;

/// A body may have this many bytes: the text of a million tokens.
const LARGEST_BODY: usize = 16 << 20;

/// A client may take so long to send its request.
const PATIENCE: Duration = Duration::from_secs(60);

/// The JSON object in a request's body.
pub(super) async fn object(request: Request<Body>) -> Result<Value, ApiError> {
    let bytes =
        match tokio::time::timeout(PATIENCE, axum::body::to_bytes(request.into_body(), LARGEST_BODY)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if is_too_long(&error) => {
                let message = format!("The request's body is larger than {LARGEST_BODY} bytes.");
                return Err(ApiError::invalid(message).status(StatusCode::PAYLOAD_TOO_LARGE));
            }
            Ok(Err(error)) => {
                return Err(ApiError::invalid(format!("The request's body cannot be read: {error}")));
            }
            Err(_) => {
                return Err(ApiError::invalid("The request's body did not come in time.")
                    .status(StatusCode::REQUEST_TIMEOUT));
            }
        };
    parse(&bytes)
}

fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

fn parse(bytes: &Bytes) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        ApiError::invalid(format!("We could not parse the JSON body of your request: {error}."))
    })?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::invalid("The body of your request has to be a JSON object."))
    }
}

/// The parameters of an object; those that are wrong are told by their path.
pub(super) fn parameters<T: DeserializeOwned>(object: &Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(object).map_err(|error| {
        let path = error.path().to_string();
        ApiError::param(&path, format!("Invalid value for '{path}': {}.", error.inner()))
    })
}

/// A parameter that has to be there.
pub(super) fn required<T>(parameter: Option<T>, name: &str) -> Result<T, ApiError> {
    parameter.ok_or_else(|| {
        ApiError::param(name, format!("Missing required parameter: '{name}'."))
            .code("missing_required_parameter")
    })
}
