use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::{Answer, Call, Frame};
use super::case::Case;
use super::client::{Client, Outcome};
use super::desk::Desk;
use super::report::{self, Places, Report, Style};
use super::upstream::MODEL;
use super::*;
use crate::model::{
    Cluster, ClusterId, ClusterState, Lesson, LessonId, LessonKind, LessonState, Micros, NightId,
};
use crate::model::{NightReport, Scope, Signature};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn hasty(seed: u64) -> Script {
    Script { seed, run: 0, pace: Pace { thinking: Duration::ZERO, event: Duration::ZERO } }
}

fn silent() -> Plan {
    Plan { feedback: 0, ..Plan::default() }
}

/// Does something with a client of a served model, in one task.
async fn with_model<T>(script: Script, work: impl AsyncFnOnce(String) -> T) -> T {
    let model = Model::bind(LOOPBACK, script).await.unwrap();
    let base = format!("http://{}", model.address());
    tokio::select! {
        served = model.serve(std::future::pending()) => panic!("the server stopped: {served:?}"),
        result = work(base) => result,
    }
}

async fn played(script: Script, plan: Plan) -> (Vec<Played>, Summary) {
    with_model(script, async |base| {
        let mut all = Vec::new();
        let summary = play(&base, &plan, &mut |p| all.push(p.clone())).await.unwrap();
        all.sort_by_key(|p| p.index);
        (all, summary)
    })
    .await
}

#[tokio::test]
async fn each_topic_goes_well_and_wrong_in_the_default_plan() {
    let (all, summary) = played(hasty(Script::default().seed), silent()).await;
    assert_eq!(summary.conversations as usize, Plan::default().conversations);
    for tally in &summary.topics {
        let expected = if tally.topic.failure().is_some() { 4..=10 } else { 0..=0 };
        assert!(expected.contains(&tally.wrong), "{tally:?}");
        assert!(tally.well >= 4, "{tally:?}");
    }
    assert_eq!(summary.topics.len(), Topic::ALL.len());
    assert!(all.iter().filter(|p| p.topic == Topic::History && !p.well).all(|p| p.server_errors == 2));
    let share = f64::from(summary.streamed) / f64::from(summary.requests);
    assert!((0.4..0.6).contains(&share), "{share} of the turns were streamed");
}

#[tokio::test]
async fn what_goes_wrong_shows_in_what_was_said() {
    let (all, _) = played(hasty(Script::default().seed), silent()).await;
    let wrong = |topic| all.iter().filter(move |p| p.topic == topic && !p.well);
    let said = |p: &Played| Value::from(p.messages.clone()).to_string();
    for (topic, trace) in [
        (Topic::Cancel, "cannot be cancelled: it has already shipped"),
        (Topic::Refund, "exceeds the limit"),
        (Topic::Address, "'postcode' was unexpected"),
        (Topic::Stock, "unknown sku"),
        (Topic::Privacy, "I'm sorry"),
    ] {
        assert!(wrong(topic).count() > 0 && wrong(topic).all(|p| said(p).contains(trace)), "{topic}");
    }
    for p in wrong(Topic::Stock) {
        assert!(said(p).matches("unknown sku").count() >= 3, "{}", said(p));
    }
    for p in all.iter().filter(|p| p.well) {
        assert!(!said(p).contains("\\\"error\\\""), "{}", said(p));
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_conversations() {
    let plan = Plan { conversations: 30, ..silent() };
    let (first, _) = played(hasty(3), plan.clone()).await;
    let (again, _) = played(hasty(3), Plan { concurrency: 1, ..plan.clone() }).await;
    assert_eq!(first, again);
    let (other, _) = played(hasty(4), plan).await;
    assert_ne!(first, other);
}

#[tokio::test]
async fn another_run_has_other_ids_and_the_same_words() {
    let plan = Plan { conversations: 9, ..silent() };
    let (first, _) = played(hasty(3), plan.clone()).await;
    let (second, _) = played(Script { run: 1, ..hasty(3) }, plan).await;
    for (a, b) in first.iter().zip(&second) {
        assert!(a.response_ids.iter().all(|id| !b.response_ids.contains(id)));
        assert_eq!(a.messages[1], b.messages[1]);
        assert_eq!(a.well, b.well);
    }
}

#[tokio::test]
async fn no_two_answers_share_an_id() {
    let plan = Plan { conversations: 36, ..silent() };
    let (all, _) = played(hasty(7), plan).await;
    let mut ids: Vec<&String> = all.iter().flat_map(|p| &p.response_ids).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[tokio::test]
async fn a_stream_adds_up_to_the_plain_answer() {
    with_model(hasty(7), async |base| {
        let client = Client::new(&base);
        for index in 0..18 {
            let case = Case::new(7, index);
            let messages = json!([{"role": "user", "content": case.opening}]);
            let mut request = json!({"model": MODEL, "messages": messages});
            let plain = client.complete(&[], &request).await.unwrap();
            request["stream"] = true.into();
            let streamed = client.complete(&[], &request).await.unwrap();
            let (Outcome::Answered(plain), Outcome::Answered(mut streamed)) = (plain, streamed) else {
                panic!("an opening was refused: {}", case.opening)
            };
            // a stream begins with an empty piece of text where the plain answer has null
            streamed.content = streamed.content.filter(|c| !c.is_empty());
            assert_eq!(plain, streamed);
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_request_gets_an_error_in_the_form_of_the_api() {
    with_model(hasty(7), async |base| {
        let client = Client::new(&base);
        let hello = json!([{"role": "user", "content": "hello"}]);
        for (request, status) in [
            (json!("no object"), 400),
            (json!({"model": MODEL}), 400),
            (json!({"messages": hello}), 400),
            (json!({"model": "gpt-none", "messages": hello}), 404),
        ] {
            let outcome = client.complete(&[], &request).await.unwrap();
            assert!(
                matches!(&outcome, Outcome::Refused(s) if s.as_u16() == status),
                "{request}: {outcome:?}"
            );
        }
        let outcome = client.complete(&[], &json!({"model": MODEL, "messages": hello})).await.unwrap();
        assert!(matches!(&outcome, Outcome::Answered(a) if a.finish == "stop"), "{outcome:?}");
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_an_error() {
    // a port that was free a moment ago
    let model = Model::bind(LOOPBACK, hasty(7)).await.unwrap();
    let base = format!("http://{}", model.address());
    drop(model);
    let error = play(&base, &silent(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, DemoError::Send { .. }), "{error}");
}

#[tokio::test]
async fn feedback_that_is_not_taken_is_counted() {
    // the model's server has no feedback endpoint: it answers 404, as a proxy that does not know the answer
    let patience = (2, Duration::ZERO);
    let plan = Plan { conversations: 9, feedback: 100, feedback_patience: patience, ..Plan::default() };
    let (_, summary) = played(hasty(7), plan).await;
    assert_eq!((summary.feedback_given, summary.feedback_refused), (0, 9));
}

#[test]
fn usage_comes_in_a_stream_only_when_asked_for() {
    let call =
        Call { id: "call_1".into(), name: "f".into(), arguments: r#"{"a": "ä long argument"}"#.into() };
    let answer = Answer { id: "x".into(), content: None, calls: vec![call], finish: "tool_calls".into() };
    let frame = Frame { prompt_tokens: 3, completion_tokens: 4, ..Frame::default() };
    assert!(!answer.events(&frame, false).concat().contains("usage"));
    let with = answer.events(&frame, true);
    assert!(with[with.len() - 2].contains(r#""choices":[],"usage":{"prompt_tokens":3"#), "{with:?}");
    assert_eq!(Answer::of_events(&with.concat()).as_ref(), Some(&answer));
    assert_eq!(Answer::of_events(&with[..with.len() - 1].concat()), None, "a stream without its end");
}

#[test]
fn the_desk_refuses_what_it_should() {
    let case = Case::new(7, 1);
    let mut desk = Desk::new(&case);
    for (tool, arguments) in [
        ("fly_to_the_moon", "{}".to_owned()),
        ("look_up_order", "{".to_owned()),
        ("look_up_order", r#"{"order_id": "W00000"}"#.to_owned()),
        ("refund_payment", json!({"order_id": case.order_id, "amount": "120"}).to_string()),
        ("refund_payment", json!({"order_id": case.order_id, "amount": 120}).to_string()),
    ] {
        let result = desk.call(tool, &arguments);
        assert!(result.contains("error"), "{tool}({arguments}) gave {result}");
    }
    let small = json!({"order_id": case.order_id, "amount": 20});
    assert!(desk.call("refund_payment", &small.to_string()).contains("refunded"));
}

#[test]
fn openings_of_one_plan_differ_and_say_what_they_are_about() {
    let cases: Vec<Case> = (0..Plan::default().conversations).map(|i| Case::new(7, i)).collect();
    for case in &cases {
        assert_eq!(Topic::of(&case.opening), Some(case.topic), "{}", case.opening);
        assert!(!case.opening.contains('{'), "{}", case.opening);
        assert_eq!(cases.iter().filter(|c| c.opening == case.opening).count(), 1, "{}", case.opening);
    }
}

#[test]
fn the_report_names_clusters_with_their_lessons_and_hides_control_characters() {
    let summary = Summary { conversations: 1, ..Summary::default() };
    let night = NightReport { trajectories: 9, failures: 4, ..NightReport::default() };
    let cluster = Cluster {
        id: ClusterId::new(),
        scope: Scope::default(),
        title: "tool_error in cancel_order".into(),
        signature: Signature::default(),
        state: ClusterState::Open,
        size: 7,
        exemplars: vec![],
        centroid: vec![],
        radius: 0.1,
        born: Micros(0),
        last_seen: Micros(0),
    };
    let lesson = Lesson {
        id: LessonId::of("x", "y"),
        scope: Scope::default(),
        kind: LessonKind::Rule,
        state: LessonState::Active,
        text: format!("Call look_up_order\u{1b}[31m before cancel_order. {}", "word ".repeat(60)),
        file: "skills/x/SKILL.md".into(),
        cluster: Some(cluster.id),
        evidence: vec![],
        support: "7 of 7 successes".into(),
        night: NightId::new(),
    };
    let files = ["MEMORY.md".to_owned()];
    let places = Places {
        proxy: "http://127.0.0.1:4141",
        admin: "http://127.0.0.1:4142",
        learned: "/data/learned/default",
        files: &files,
        commit: Some("0123456789abcdef"),
    };
    let report =
        Report { summary: &summary, night: &night, clusters: &[cluster], lessons: &[lesson], places };
    let text = report::night(&report, Style::Plain);
    for part in ["7 × tool_error in cancel_order", "• Call look_up_order", "7 of 7", "MEMORY.md", ":4142"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!text.contains('\u{1b}') && text.lines().all(|l| l.chars().count() <= 100), "{text}");
    assert!(report::night(&report, Style::Terminal).contains("\u{1b}[1m"));
    let json = report::json(&report);
    assert_eq!(json["night"]["clusters"][0]["lessons"][0]["file"], "skills/x/SKILL.md");
    assert_eq!(json["proxy"], "http://127.0.0.1:4141");
}
