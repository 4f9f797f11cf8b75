use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};

use super::split::is_held_out;
use super::*;
use crate::config::Durability;
use crate::model::{Body, Ended, Exchange, ExchangeId, Feedback, Headers, Response, Timing};
use crate::store::{DataDir, RecordWriter};
use crate::{outcome, trajectory};

/// Recorded traffic without a proxy.
pub struct World {
    pub store: Store,
    writer: RecordWriter,
    pub dir: tempfile::TempDir,
    count: i64,
}

const START: i64 = 1_793_491_200_000_000;

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path());
        let store = Store::open(&data).expect("a store");
        let writer = RecordWriter::open(&data, Durability::None).expect("a record");
        Self { store, writer, dir, count: 0 }
    }

    /// Records a chat completion; its response id is `r-N`, counted from 1.
    pub fn chat(&mut self, headers: &[(&str, &str)], request: &Value, answer: &Value) -> ExchangeId {
        self.count += 1;
        let n = self.count;
        let at = Micros(START + n * 60_000_000);
        let finish = if answer["tool_calls"].is_array() { "tool_calls" } else { "stop" };
        let finish = request["test_finish"].as_str().unwrap_or(finish);
        let answer = json!({"id": format!("r-{n}"), "object": "chat.completion", "model": "m",
            "choices": [{"index": 0, "message": answer, "finish_reason": finish}]});
        let json_type = || Headers(vec![("content-type".into(), "application/json".into())]);
        let mut sent = json_type();
        sent.0.extend(headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let exchange = Exchange {
            id: ExchangeId::new(),
            scope: Scope::default(),
            connection: n,
            client_key: None,
            method: "POST".into(),
            target: "/v1/chat/completions".into(),
            upstream: "http://127.0.0.1".into(),
            request_headers: sent,
            request_body: Body::whole(Bytes::from(request.to_string())),
            response: Some(Response {
                status: 200,
                headers: json_type(),
                body: Body::whole(Bytes::from(answer.to_string())),
            }),
            timing: Timing { started: at, head: Some(at), first_byte: Some(at), ended: at },
            ended: Ended::Complete,
            detail: None,
        };
        let id = exchange.id;
        self.writer.write(&[exchange]).expect("recorded");
        trajectory::catch_up(&self.store).expect("assembled");
        id
    }

    /// One question and its answer.
    pub fn ask(&mut self, user: &str, answer: &str) -> String {
        let request = json!({"model": "m", "messages": [
            {"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": user}]});
        self.chat(&[], &request, &json!({"role": "assistant", "content": answer}));
        format!("r-{}", self.count)
    }

    pub fn feedback(
        &mut self,
        response: &str,
        label: Option<Label>,
        correction: Option<&str>,
    ) -> TrajectoryId {
        self.count += 1;
        let (trajectory, exchange) =
            self.store.find_response(response).expect("a query").expect("it is recorded");
        let feedback = Feedback {
            label,
            reward: None,
            correction: correction.map(str::to_owned),
            comment: None,
            source: "operator".into(),
            given: Micros(START + self.count * 60_000_000),
        };
        self.store.give_feedback(trajectory, Some(exchange), &feedback).expect("kept");
        trajectory
    }

    pub fn select(&self, settings: &TrainExamples) -> Selection {
        outcome::assess(&self.store, Micros::now()).expect("assessed");
        select(&self.store, &Scope::default(), settings).expect("readable")
    }

    fn sql(&self, text: &str) {
        self.store.write("change a row", |tx| tx.execute_batch(text)).expect("changed");
    }
}

fn everything() -> TrainExamples {
    // So that all is on one side.
    TrainExamples { held_out: 1e-12, ..TrainExamples::default() }
}

fn contents(sample: &Sample) -> Vec<&str> {
    sample.chat.messages.iter().map(|m| m["content"].as_str().expect("text")).collect()
}

#[test]
fn a_correction_takes_the_place_of_the_answer_under_the_same_prompt() {
    let mut world = World::new();
    let id = world.ask("Where is my parcel?", "I am only a model.");
    let trajectory = world.feedback(&id, Some(Label::Failure), Some(" {\"queue\": \"delivery\"} "));
    let selection = world.select(&everything());
    assert_eq!(selection.training.len(), 1, "{:?}", selection.skipped);
    let sample = &selection.training[0];
    assert_eq!(contents(sample), ["Answer in JSON.", "Where is my parcel?", "{\"queue\": \"delivery\"}"]);
    assert_eq!((sample.kind, sample.trajectory), (Kind::Correction, trajectory));
    assert_eq!(sample.chat.learned(), [2]);
}

#[test]
fn a_confident_success_teaches_all_its_answers_and_no_worked_examples_of_the_prompt() {
    let mut world = World::new();
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    let call = json!([{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]);
    let mut messages = vec![
        json!({"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]}),
        json!({"role": "user", "content": "example"}),
        json!({"role": "assistant", "content": "shown, not said"}),
        json!({"role": "user", "content": "Where is it?"}),
    ];
    let first = json!({"role": "assistant", "content": null, "tool_calls": call});
    world.chat(&[], &json!({"model": "m", "tools": tools, "messages": messages}), &first);
    messages.extend([first, json!({"role": "tool", "tool_call_id": "c1", "content": "in Lisbon"})]);
    let request = json!({"model": "m", "tools": tools, "messages": messages});
    world.chat(&[], &request, &json!({"role": "assistant", "content": "In Lisbon."}));
    world.feedback("r-2", Some(Label::Success), None);
    let selection = world.select(&everything());
    assert_eq!(selection.training.len(), 1, "{:?}", selection.skipped);
    let sample = &selection.training[0];
    assert_eq!(sample.kind, Kind::Success);
    assert_eq!(sample.chat.learned(), [4, 6]);
    assert_eq!(contents(sample)[0], "Be brief.");
    assert_eq!(sample.chat.messages[4]["tool_calls"], call);
    assert_eq!(sample.chat.tools, tools);
}

#[test]
fn what_is_unsure_cut_or_gone_teaches_nothing_and_is_counted() {
    let mut world = World::new();
    for question in ["unsure link", "unsure success", "gone"] {
        let id = world.ask(question, "yes");
        world.feedback(&id, Some(Label::Success), None);
    }
    let request =
        json!({"model": "m", "test_finish": "length", "messages": [{"role": "user", "content": "cut"}]});
    world.chat(&[], &request, &json!({"role": "assistant", "content": "y"}));
    let id = format!("r-{}", world.count);
    world.feedback(&id, Some(Label::Success), None);
    let picture = json!({"model": "m", "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]});
    world.chat(&[], &picture, &json!({"role": "assistant", "content": "a cat"}));
    let id = format!("r-{}", world.count);
    world.feedback(&id, Some(Label::Success), None);
    world.ask("nobody said how it went", "yes");
    outcome::assess(&world.store, Micros::now()).expect("assessed");
    world.sql(
        "UPDATE trajectory SET link_confidence = 0.6 WHERE task = 'unsure link';
         UPDATE trajectory SET p_success = 0.8 WHERE task = 'unsure success';
         UPDATE trajectory SET p_success = 0.95, label = 'success' WHERE task = 'cut';",
    );
    let day = Micros(START).day();
    let selection = world.select(&everything());
    assert_eq!(selection.training.len(), 1);
    // Retention.
    std::fs::remove_file(DataDir::new(world.dir.path()).payload_db(&day)).expect("dropped");
    let store = Store::open(&DataDir::new(world.dir.path())).expect("a store");
    let late = select(&store, &Scope::default(), &everything()).expect("readable");
    let count = |s: &Selection, why| s.skipped.get(&why).copied().unwrap_or_default();
    for why in [Skipped::UnsureLink, Skipped::Unconfident, Skipped::Unfinished, Skipped::NotText] {
        assert_eq!(count(&selection, why), 1, "{why}");
    }
    assert_eq!((late.training.len(), count(&late, Skipped::Gone)), (0, 3));
    assert_eq!(selection.trajectories, 6);
}

#[test]
fn the_latest_correction_of_a_prompt_wins_and_equal_ones_count_once() {
    let mut world = World::new();
    for (answer, correction) in [("a", "old"), ("b", "new"), ("c", "new")] {
        let id = world.ask("same", answer);
        world.feedback(&id, Some(Label::Failure), Some(correction));
    }
    let id = world.ask("same", "old");
    world.feedback(&id, Some(Label::Success), None);
    let selection = world.select(&everything());
    let kept: Vec<&str> = selection.training.iter().map(|s| contents(s)[2]).collect();
    assert_eq!(kept, ["new"]);
    assert_eq!((selection.skipped[&Skipped::Overruled], selection.skipped[&Skipped::Duplicate]), (2, 1));
}

#[test]
fn a_trajectory_with_a_correction_teaches_only_that() {
    let mut world = World::new();
    let id = world.ask("q", "good enough");
    world.feedback(&id, Some(Label::Success), Some("better"));
    let selection = world.select(&everything());
    assert_eq!(selection.training.len(), 1);
    assert_eq!(contents(&selection.training[0])[2], "better");
    assert_eq!(selection.skipped[&Skipped::Corrected], 1);
    let advice = world.select(&TrainExamples { corrections: false, ..everything() });
    assert_eq!(contents(&advice.training[0])[2], "good enough");
}

#[test]
fn another_scope_teaches_nothing() {
    let mut world = World::new();
    let id = world.ask("q", "a");
    world.feedback(&id, Some(Label::Success), None);
    outcome::assess(&world.store, Micros::now()).expect("assessed");
    let other = Scope { app: "other".into(), ..Scope::default() };
    let selection = select(&world.store, &other, &everything()).expect("readable");
    assert_eq!((selection.training.len(), selection.trajectories), (0, 0));
}

fn trajectories(samples: &[Sample]) -> BTreeSet<TrajectoryId> {
    samples.iter().map(|s| s.trajectory).collect()
}

#[test]
fn a_trajectory_stays_on_its_side_when_more_is_recorded() {
    let settings = TrainExamples { held_out: 0.4, ..TrainExamples::default() };
    let mut world = World::new();
    let answer = |world: &mut World, n: usize| {
        let id = world.ask(&format!("question {n}"), "a");
        world.feedback(&id, Some(Label::Success), None);
    };
    (0..20).for_each(|n| answer(&mut world, n));
    let before = world.select(&settings);
    assert!(before.held_out.len() >= 3 && before.training.len() >= 3, "{}", before.held_out.len());
    (20..40).for_each(|n| answer(&mut world, n));
    // An old question again, and a late correction of an old answer.
    answer(&mut world, 3);
    world.feedback("r-9", Some(Label::Failure), Some("b"));
    let after = world.select(&settings);
    assert!(trajectories(&after.training).is_disjoint(&trajectories(&after.held_out)));
    assert!(trajectories(&before.training).is_disjoint(&trajectories(&after.held_out)));
    assert!(trajectories(&before.held_out).is_disjoint(&trajectories(&after.training)));
    let prompts = |samples: &[Sample]| samples.iter().map(|s| s.prompt).collect::<BTreeSet<_>>();
    assert!(prompts(&after.training).is_disjoint(&prompts(&after.held_out)));
}

#[test]
fn a_session_is_on_one_side_and_a_prompt_of_two_groups_stays_with_the_older() {
    let settings = TrainExamples { held_out: 0.5, ..TrainExamples::default() };
    let mut world = World::new();
    for session in 0..12 {
        let name = format!("s-{session}");
        // Each session goes on to ask what another began with.
        for question in [session, (session + 5) % 12] {
            let request =
                json!({"model": "m", "messages": [{"role": "user", "content": format!("q {question}")}]});
            world.chat(
                &[("x-remora-session", &name)],
                &request,
                &json!({"role": "assistant", "content": "a"}),
            );
            let id = format!("r-{}", world.count);
            world.feedback(&id, Some(Label::Failure), Some("b"));
        }
    }
    let selection = world.select(&settings);
    assert!(trajectories(&selection.training).is_disjoint(&trajectories(&selection.held_out)));
    assert!(!selection.training.is_empty() && !selection.held_out.is_empty());
    let prompts = |samples: &[Sample]| samples.iter().map(|s| s.prompt).collect::<BTreeSet<_>>();
    assert!(prompts(&selection.training).is_disjoint(&prompts(&selection.held_out)));
}

#[test]
fn the_oldest_are_left_out_beyond_the_most() {
    let mut world = World::new();
    for n in 0..5 {
        let id = world.ask(&format!("q {n}"), "a");
        world.feedback(&id, Some(Label::Success), None);
    }
    let selection = world.select(&TrainExamples { most: 3, ..everything() });
    assert_eq!(selection.skipped[&Skipped::TooMany], 2);
    let asked: Vec<&str> = selection.training.iter().map(|s| contents(s)[1]).collect();
    assert_eq!(asked, ["q 2", "q 3", "q 4"]);
}

#[test]
fn about_the_wanted_share_is_held_out() {
    let held = (0..4000_u32).filter(|n| {
        let mut group = [0; 32];
        group[..4].copy_from_slice(&n.to_be_bytes());
        is_held_out(&group, 0.25)
    });
    let held = held.count();
    assert!((900..1100).contains(&held), "{held}");
}
