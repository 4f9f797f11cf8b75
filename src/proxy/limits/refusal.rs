use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::framing::Flaw;
use crate::proxy::respond;

/// The answer to a request that is not forwarded; the connection ends with it.
pub(in crate::proxy) fn refuse(flaw: Flaw) -> Response<Bytes> {
    let (status, code, message) = match flaw {
        Flaw::TooLarge => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            "the request's head is larger than limits.header_size, or has more headers than limits.headers",
        ),
        Flaw::Coding => (
            StatusCode::NOT_IMPLEMENTED,
            "transfer_encoding",
            "the only Transfer-Encoding understood is one chunked, in HTTP/1.1",
        ),
        Flaw::BothLengths => bad("Content-Length and Transfer-Encoding contradict each other; send one"),
        Flaw::Length => bad("there must be one Content-Length, and it must be a number"),
        Flaw::Host => bad("there must be one Host, and it must name a host"),
        Flaw::Line => bad("the lines of the head must end with CR LF"),
        Flaw::Disguise => bad("a header's name has _ where Content-Length or Transfer-Encoding have -"),
        Flaw::Chunk => bad("the body of the request before was no well-formed chunked body"),
    };
    let message = format!("Remora: {message}");
    let mut response = respond::error(status, "invalid_request_error", code, &message);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn bad(message: &'static str) -> (StatusCode, &'static str, &'static str) {
    (StatusCode::BAD_REQUEST, "ambiguous_request", message)
}
