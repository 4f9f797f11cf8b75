//! `POST /remora/v1/feedback`.

use remora::model::Label;
use serde_json::{Value, json};

use crate::harness::{Sidecar, Upstream, completion, plain};

const PATH: &str = "/remora/v1/feedback";

async fn one_answered(sidecar: &Sidecar) {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).to_string();
    sidecar.post("/v1/chat/completions", "X-Remora-Session: s-1\r\n", body.as_bytes()).await;
}

async fn give(sidecar: &Sidecar, feedback: Value) -> (u16, Value) {
    let answer =
        sidecar.post(PATH, "Content-Type: application/json\r\n", feedback.to_string().as_bytes()).await;
    (answer.status, serde_json::from_slice(&answer.body).expect("JSON"))
}

#[tokio::test]
async fn feedback_finds_its_trajectory_by_any_id_at_once() {
    let upstream = Upstream::always(plain("200 OK", "", &completion("resp-1", "hi"))).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    one_answered(&sidecar).await;
    let (status, said) =
        give(&sidecar, json!({"response_id": "resp-1", "label": "failure", "correction": "say hello"})).await;
    assert_eq!(status, 202, "{said}");
    let id = said["trajectory_id"].as_str().expect("it is named").to_owned();
    let exchange = sidecar.exchanges()[0].id.to_string();
    for key in [json!({"session_id": "s-1"}), json!({"trajectory_id": id}), json!({"exchange_id": exchange})]
    {
        let mut feedback = key;
        feedback["reward"] = json!(0.25);
        let (status, said) = give(&sidecar, feedback).await;
        assert_eq!((status, said["trajectory_id"].as_str()), (202, Some(id.as_str())));
    }
    let kept = sidecar.store().feedback(id.parse().expect("an id")).expect("readable");
    assert_eq!(kept.len(), 4);
    assert_eq!((kept[0].label, kept[0].correction.as_deref()), (Some(Label::Failure), Some("say hello")));
    assert_eq!(kept[1].reward, Some(0.25));
    assert_eq!(upstream.requests().len(), 1, "feedback is not forwarded");
}

#[tokio::test]
async fn bad_feedback_is_refused_with_the_reason() {
    let upstream = Upstream::always(plain("200 OK", "", &completion("resp-1", "hi"))).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    one_answered(&sidecar).await;
    let cases = [
        (json!({"label": "failure"}), 400, "response_id"),
        (json!({"response_id": "resp-1"}), 400, "label"),
        (json!({"response_id": "resp-1", "label": "meh"}), 400, "meh"),
        (json!({"response_id": "resp-1", "reward": 7}), 400, "7"),
        (json!([1]), 400, "JSON object"),
        (json!({"response_id": "other", "label": "success"}), 404, "no recorded"),
    ];
    for (feedback, expected, word) in cases {
        let (status, said) = give(&sidecar, feedback.clone()).await;
        assert_eq!(status, expected, "{feedback}: {said}");
        assert!(said["error"]["message"].as_str().is_some_and(|m| m.contains(word)), "{feedback}: {said}");
    }
}
