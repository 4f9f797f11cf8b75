//! Session names that clients send, by the conventions of common gateways and tracers.

use crate::model::{Headers, Reading};

/// A session that the client named, and how sure it is that one name means one task.
pub struct Session {
    pub id: String,
    pub confidence: f64,
    /// False for a trace: instrumented servers begin one with every request, so what the messages tell comes first.
    pub is_task: bool,
}

/// Headers that name a session, the most deliberate first.
const HEADERS: &[&str] = &[
    "x-remora-session",
    "helicone-session-id",
    "x-litellm-session-id",
    "x-litellm-trace-id",
    "langfuse-session-id",
    "x-langfuse-session-id",
    "x-session-id",
    "session-id",
];

/// Longer names are no names.
const MAX_LENGTH: usize = 256;

/// The session of a request, or none where it names none.
///
/// A trace (W3C `traceparent`) may span several tasks, or a part of one, so it counts less than a session.
pub fn of(headers: &Headers, reading: &Reading) -> Option<Session> {
    let named = |id: &str| (!id.trim().is_empty() && id.len() <= MAX_LENGTH).then(|| id.trim().to_owned());
    let sure = |id: String| Session { id, confidence: 1.0, is_task: true };
    HEADERS
        .iter()
        .filter_map(|name| headers.get(name))
        .find_map(named)
        .map(sure)
        .or_else(|| reading.session.as_ref().and_then(|(_, id)| named(id)).map(sure))
        .or_else(|| reading.conversation.as_deref().and_then(named).map(sure))
        .or_else(|| {
            headers.get("traceparent").and_then(trace_id).map(|id| Session {
                id,
                confidence: 0.9,
                is_task: false,
            })
        })
}

/// The trace id of a `traceparent` header (<https://www.w3.org/TR/trace-context/#traceparent-header>).
fn trace_id(value: &str) -> Option<String> {
    let mut parts = value.trim().split('-');
    let version = parts.next()?;
    let trace = parts.next()?;
    let hexadecimal = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let valid = version.len() == 2
        && version != "ff"
        && hexadecimal(version)
        && trace.len() == 32
        && hexadecimal(trace)
        && trace.bytes().any(|b| b != b'0')
        && parts.next().is_some_and(|span| span.len() == 16);
    valid.then(|| trace.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_deliberate_name_wins() {
        let headers = Headers(vec![
            ("traceparent".into(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            ("Helicone-Session-Id".into(), "h".into()),
        ]);
        let session = of(&headers, &Reading::default()).expect("two names are given");
        assert_eq!((session.id.as_str(), session.confidence), ("h", 1.0));
    }

    #[test]
    fn a_broken_traceparent_names_nothing() {
        for value in [
            "",
            "00-xyz",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(trace_id(value).is_none(), "{value:?}");
        }
    }
}
