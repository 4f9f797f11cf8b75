//! Names in a body that tell which session and which user an exchange belongs to.

use serde_json::Value;

use super::fields;
use crate::model::Reading;

/// Body fields that name a session, most telling first: LiteLLM's, those that gateways and tracing products define
/// for OpenAI's `metadata`, TensorZero's.
const SESSION_KEYS: [(&str, &str, &str); 7] = [
    ("", "litellm_session_id", "litellm_session_id"),
    ("metadata", "litellm_session_id", "metadata.litellm_session_id"),
    ("metadata", "session_id", "metadata.session_id"),
    ("metadata", "langfuse_session_id", "metadata.langfuse_session_id"),
    ("metadata", "conversation_id", "metadata.conversation_id"),
    ("metadata", "thread_id", "metadata.thread_id"),
    ("", EPISODE, EPISODE),
];

const EPISODE: &str = "tensorzero::episode_id";

pub(super) fn of_request(body: &Value, into: &mut Reading) {
    let metadata = &body["metadata"];
    let at = |parent: &str, key| fields::name(if parent.is_empty() { body } else { &body[parent] }, key);
    into.session =
        SESSION_KEYS.iter().find_map(|(parent, key, called)| Some(((*called).into(), at(parent, key)?)));
    into.cache_key = fields::name(body, "prompt_cache_key");
    let user_id = fields::name(metadata, "user_id");
    let (account, session) = user_id.as_deref().map_or((None, None), coding_agent);
    if let (None, Some(session)) = (&into.session, session) {
        into.session = Some(("metadata.user_id".into(), session));
    }
    into.user = fields::name(body, "user")
        .or_else(|| fields::name(body, "safety_identifier"))
        .or(account)
        .or(user_id);
}

/// The episode that TensorZero began with this answer: the next request will name it.
pub(super) fn of_answer(body: &Value, into: &mut Reading) {
    if into.session.is_none()
        && let Some(episode) = fields::name(body, "episode_id")
    {
        into.session = Some((EPISODE.into(), episode));
    }
}

/// (user, session) of the `metadata.user_id` that Claude Code sends: `user_<hash>_account_<uuid>_session_<uuid>`.
fn coding_agent(user_id: &str) -> (Option<String>, Option<String>) {
    match user_id.rsplit_once("_session_") {
        Some((user, session)) if session.len() == 36 && user.starts_with("user_") => {
            (Some(user.into()), Some(session.into()))
        }
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{of_answer, of_request};
    use crate::model::Reading;

    fn hints(body: &Value) -> Reading {
        let mut reading = Reading::default();
        of_request(body, &mut reading);
        reading
    }

    fn session(body: &Value) -> Option<(String, String)> {
        hints(body).session
    }

    fn named(key: &str, value: &str) -> Option<(String, String)> {
        Some((key.into(), value.into()))
    }

    #[test]
    fn a_session_is_found_under_each_of_its_names() {
        assert_eq!(session(&json!({"litellm_session_id": "s"})), named("litellm_session_id", "s"));
        assert_eq!(session(&json!({"tensorzero::episode_id": "s"})), named("tensorzero::episode_id", "s"));
        for key in ["litellm_session_id", "session_id", "langfuse_session_id", "conversation_id", "thread_id"]
        {
            assert_eq!(session(&json!({"metadata": {key: "s"}})), named(&format!("metadata.{key}"), "s"));
        }
        assert_eq!(session(&json!({"metadata": {"session_id": 7}})), named("metadata.session_id", "7"));
    }

    #[test]
    fn other_metadata_names_no_session() {
        let body =
            json!({"metadata": {"trajectory_id": "t", "task": "x", "session_id": " "}, "session_id": "s"});
        assert_eq!(session(&body), None);
        assert_eq!(session(&json!({"metadata": "session_id"})), None);
        assert_eq!(session(&json!(["litellm_session_id"])), None);
    }

    #[test]
    fn users_and_cache_keys_are_read() {
        let body = json!({"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"user_id": "m"}});
        assert_eq!((hints(&body).user, hints(&body).cache_key), (Some("u".into()), Some("k".into())));
        assert_eq!(hints(&json!({"safety_identifier": "s"})).user, Some("s".into()));
        assert_eq!(hints(&json!({"metadata": {"user_id": "m"}})).user, Some("m".into()));
    }

    #[test]
    fn a_coding_agents_user_id_holds_its_session() {
        let uuid = "0199c0de-0000-7000-8000-000000000001";
        let read = hints(&json!({"metadata": {"user_id": format!("user_ab_account_cd_session_{uuid}")}}));
        assert_eq!(read.user, Some("user_ab_account_cd".into()));
        assert_eq!(read.session, named("metadata.user_id", uuid));
        assert_eq!(session(&json!({"metadata": {"user_id": "my_session_1"}})), None);
    }

    #[test]
    fn an_episode_named_by_the_answer_counts_unless_the_request_named_one() {
        let mut reading = Reading::default();
        of_answer(&json!({"episode_id": "e"}), &mut reading);
        of_answer(&json!({"episode_id": "later"}), &mut reading);
        assert_eq!(reading.session, named("tensorzero::episode_id", "e"));
    }
}
