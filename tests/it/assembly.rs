//! From exchanges to trajectories, through the real proxy.

use remora::model::{Link, Role, Trajectory, TrajectoryId};
use remora::store::TrajectoryFilter;
use remora::trajectory;
use serde_json::{Value, json};

use crate::harness::{Connection, Piece, Sidecar, Upstream, plain};

/// Answers `{"say": text, "id": id}` in the last message's metadata-free way: the request tells what to answer.
async fn obedient() -> Upstream {
    Upstream::start(|request| {
        let asked: Value = serde_json::from_slice(&request.body).expect("tests send JSON");
        let message = asked["answer"].clone();
        if message.is_null() {
            return vec![Piece::Send(plain(
                "500 Internal Server Error",
                "",
                br#"{"error":{"message":"overloaded"}}"#,
            ))];
        }
        let finish = if message["tool_calls"].is_array() { "tool_calls" } else { "stop" };
        let body = json!({"id": asked["answer_id"], "object": "chat.completion", "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}]});
        vec![Piece::Send(plain("200 OK", "Content-Type: application/json\r\n", body.to_string().as_bytes()))]
    })
    .await
}

struct Desk {
    sidecar: Sidecar,
    _upstream: Upstream,
}

impl Desk {
    async fn open() -> Self {
        let upstream = obedient().await;
        Self { sidecar: Sidecar::start(&upstream.url()).await, _upstream: upstream }
    }

    /// Sends a conversation, with what the model is to answer.
    async fn ask(&self, headers: &str, messages: &[Value], answer: Value, id: &str) {
        let body = json!({"model": "m", "messages": messages, "answer": answer, "answer_id": id}).to_string();
        self.sidecar.post("/v1/chat/completions", headers, body.as_bytes()).await;
    }

    fn trajectories(&self) -> Vec<Trajectory> {
        trajectory::catch_up(self.sidecar.store()).expect("assembled");
        let mut all = self.sidecar.store().trajectories(&TrajectoryFilter::default()).expect("listed");
        all.reverse();
        all
    }

    fn answers(&self, id: TrajectoryId) -> Vec<String> {
        self.sidecar.store().response_ids(id).expect("listed")
    }
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

#[tokio::test]
async fn a_growing_conversation_is_one_trajectory_without_any_name() {
    let desk = Desk::open().await;
    let call = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{\"a\": 1, \"b\": 2}"}}]});
    desk.ask("", &[user("find it")], call, "r1").await;
    // The client sends the answer back printed another way, with an empty string for null.
    let echoed = json!({"role": "assistant", "content": "", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{\"b\":2,\"a\":1}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "c1", "content": "found"});
    desk.ask("", &[user("find it"), echoed, result], assistant("here"), "r2").await;
    let all = desk.trajectories();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].link, all[0].exchanges, all[0].task.as_str()), (Link::Prefix, 2, "find it"));
    let transcript = trajectory::transcript(desk.sidecar.store(), all[0].id).expect("read").expect("there");
    let roles: Vec<Role> = transcript.messages.iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
    assert_eq!(transcript.steps.iter().map(|s| s.message).collect::<Vec<_>>(), [Some(1), Some(3)]);
}

#[tokio::test]
async fn trials_with_equal_beginnings_stay_apart() {
    let desk = Desk::open().await;
    // Two trials, one after the other, equal up to the second answer.
    for trial in ["a", "b"] {
        desk.ask("", &[user("task")], assistant("what?"), &format!("{trial}1")).await;
        let so_far = [user("task"), assistant("what?"), user("this")];
        desk.ask("", &so_far, assistant(&format!("done {trial}")), &format!("{trial}2")).await;
    }
    let all = desk.trajectories();
    assert_eq!(all.iter().map(|t| desk.answers(t.id)).collect::<Vec<_>>(), [["a1", "a2"], ["b1", "b2"]]);
}

#[tokio::test]
async fn interleaved_trials_are_told_apart_by_their_connections() {
    let desk = Desk::open().await;
    let (mut a, mut b) =
        (Connection::open(&desk.sidecar.proxy).await, Connection::open(&desk.sidecar.proxy).await);
    for (step, messages) in
        [("1", vec![user("task")]), ("2", vec![user("task"), assistant("same"), user("go on")])]
    {
        for (connection, trial) in [(&mut a, "a"), (&mut b, "b")] {
            let body = json!({"messages": messages, "answer": assistant("same"), "answer_id": format!("{trial}{step}")});
            connection.post("/v1/chat/completions", "", body.to_string().as_bytes()).await;
            connection.answer().await;
        }
    }
    let all = desk.trajectories();
    assert_eq!(all.iter().map(|t| desk.answers(t.id)).collect::<Vec<_>>(), [["a1", "a2"], ["b1", "b2"]]);
}

#[tokio::test]
async fn different_keys_and_apps_never_share_a_trajectory() {
    let desk = Desk::open().await;
    desk.ask("Authorization: Bearer one\r\n", &[user("task")], assistant("ok"), "r1").await;
    let next = [user("task"), assistant("ok"), user("more")];
    desk.ask("Authorization: Bearer two\r\n", &next, assistant("ok"), "r2").await;
    desk.ask("Authorization: Bearer one\r\nX-Remora-App: other\r\n", &next, assistant("ok"), "r3").await;
    assert_eq!(desk.trajectories().len(), 3);
}

#[tokio::test]
async fn a_named_session_is_one_trajectory_whatever_its_messages() {
    let desk = Desk::open().await;
    for (i, header) in ["X-Remora-Session", "x-remora-session"].iter().enumerate() {
        desk.ask(
            &format!("{header}: s\r\n"),
            &[user(&format!("unrelated {i}"))],
            assistant("ok"),
            &format!("r{i}"),
        )
        .await;
    }
    desk.ask("Helicone-Session-Id: other\r\n", &[user("unrelated 0")], assistant("ok"), "r9").await;
    let all = desk.trajectories();
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].link, all[0].session_id.as_deref()), (Link::Explicit, Some("s")));
    assert_eq!(desk.answers(all[0].id), ["r0", "r1"]);
}

#[tokio::test]
async fn a_request_sent_again_after_an_error_joins_its_first_attempt() {
    let desk = Desk::open().await;
    desk.ask("", &[user("task")], Value::Null, "none").await;
    desk.ask("", &[user("task")], assistant("ok"), "r1").await;
    let all = desk.trajectories();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].exchanges, desk.answers(all[0].id)), (2, vec!["r1".to_owned()]));
}

#[tokio::test]
async fn a_conversation_cut_by_its_client_is_joined_by_its_tool_call() {
    let desk = Desk::open().await;
    let call = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "c-unique", "type": "function", "function": {"name": "find", "arguments": "{}"}}]});
    desk.ask("", &[user("a long history"), user("task")], call.clone(), "r1").await;
    let result = json!({"role": "tool", "tool_call_id": "c-unique", "content": "found"});
    desk.ask("", &[user("summary of it"), call, result], assistant("ok"), "r2").await;
    let all = desk.trajectories();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].link, Link::ToolCall);
}

#[tokio::test]
async fn responses_are_chained_by_the_id_of_the_previous_one() {
    let upstream = Upstream::start(|request| {
        let asked: Value = serde_json::from_slice(&request.body).expect("tests send JSON");
        let n = if asked["previous_response_id"].is_null() { 1 } else { 2 };
        let body = json!({"id": format!("resp_{n}"), "object": "response", "status": "completed", "model": "m",
            "output": [{"type": "message", "role": "assistant",
                        "content": [{"type": "output_text", "text": format!("answer {n}")}]}]});
        vec![Piece::Send(plain("200 OK", "Content-Type: application/json\r\n", body.to_string().as_bytes()))]
    })
    .await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    for body in [
        json!({"model": "m", "instructions": "be brief", "input": "one"}),
        json!({"model": "m", "instructions": "be brief", "input": "two", "previous_response_id": "resp_1"}),
    ] {
        sidecar.post("/v1/responses", "", body.to_string().as_bytes()).await;
    }
    trajectory::catch_up(sidecar.store()).expect("assembled");
    let all = sidecar.store().trajectories(&TrajectoryFilter::default()).expect("listed");
    assert_eq!((all.len(), all[0].link), (1, Link::ResponseId));
    let transcript = trajectory::transcript(sidecar.store(), all[0].id).expect("read").expect("there");
    let said: Vec<&str> = transcript.messages.iter().map(|m| m.text.as_str()).collect();
    assert_eq!(said, ["be brief", "one", "answer 1", "two", "answer 2"]);
}

#[tokio::test]
async fn assembling_twice_or_from_two_sides_changes_nothing() {
    let desk = Desk::open().await;
    for i in 0..100 {
        desk.ask("", &[user(&format!("task {i}"))], assistant("ok"), &format!("r{i}")).await;
    }
    desk.sidecar.recorded(100).await;
    let stores: Vec<_> = (0..3)
        .map(|_| {
            remora::store::Store::open(&remora::store::DataDir::new(desk.sidecar.path())).expect("it opens")
        })
        .collect();
    let workers: Vec<_> = stores
        .into_iter()
        .map(|store| std::thread::spawn(move || trajectory::catch_up(&store).expect("assembled").exchanges))
        .collect();
    let read: u64 = workers.into_iter().map(|w| w.join().expect("no panic")).sum();
    assert_eq!(read, 100, "each exchange is placed once");
    assert_eq!(desk.trajectories().len(), 100);
}
