use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};

use super::*;

const SEEDS: [u64; 4] = [0, 1, 2, 77];

/// Numbers of orders.
fn numbers(text: &str) -> HashSet<String> {
    text.split(|c: char| !c.is_ascii_digit()).filter(|w| w.len() == 5).map(str::to_owned).collect()
}

#[test]
fn the_same_seed_gives_the_same_messages_and_another_one_others() {
    assert_eq!(messages(3, Half::Learned, 60), messages(3, Half::Learned, 60));
    assert_ne!(messages(3, Half::Learned, 60), messages(4, Half::Learned, 60));
    assert_ne!(messages(3, Half::Learned, 60), messages(3, Half::Unseen, 60));
}

#[test]
fn the_halves_of_every_pool_share_nothing() {
    let pools = pools::Pools::all();
    let lists = [
        ("orders", &pools.orders),
        ("asides", &pools.asides),
        ("greetings", &pools.greetings),
        ("closings", &pools.closings),
        ("names", &pools.names),
        ("products", &pools.products),
    ];
    for seed in SEEDS {
        for (what, pool) in lists {
            let learned = Half::Learned.of(pool, seed, what);
            let unseen = Half::Unseen.of(pool, seed, what);
            assert!(learned.iter().all(|item| !unseen.contains(item)), "{what} of seed {seed}");
            assert_eq!(learned.len() + unseen.len(), pool.len());
        }
    }
    let mut all: Vec<&String> =
        Queue::ALL.iter().flat_map(|q| pools.issues(*q)).chain(lists.iter().flat_map(|(_, l)| *l)).collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "something stands in the pools twice");
    assert!(Queue::ALL.iter().all(|q| pools.issues(*q).len() == 32));
}

#[test]
fn what_is_unseen_shares_no_sentence_name_product_or_number_with_what_is_learned() {
    for seed in SEEDS {
        let learned = messages(seed, Half::Learned, 60);
        let unseen = messages(seed, Half::Unseen, 60);
        let all: String = learned.iter().map(|m| m.text.as_str()).collect::<Vec<_>>().join("\n");
        let pools = pools::Pools::all();
        let issues = Queue::ALL.iter().flat_map(|q| pools.issues(*q));
        let parts: Vec<&str> = issues
            .chain(&pools.orders)
            .chain(&pools.asides)
            .chain(&pools.names)
            .chain(&pools.products)
            .map(String::as_str)
            .collect();
        for message in &unseen {
            for part in &parts {
                // Of a sentence with a gap, the longer side tells.
                let told = part.split(['{', '}']).max_by_key(|p| p.len()).unwrap_or(part);
                let inside = |text: &str| told.len() > 12 && text.contains(told);
                // A sentence may be the beginning of another one; only whole ones count.
                let longer = parts.iter().any(|p| p != part && p.contains(told));
                assert!(longer || !(inside(&message.text) && inside(&all)), "{part:?} is in both");
            }
        }
        let seen = numbers(&all);
        assert!(unseen.iter().all(|m| numbers(&m.text).is_disjoint(&seen)));
        let texts: HashSet<&String> = learned.iter().chain(&unseen).map(|m| &m.text).collect();
        assert_eq!(texts.len(), 120, "no message comes twice");
    }
}

#[test]
fn queues_are_balanced_and_a_third_of_the_messages_names_no_order() {
    for seed in SEEDS {
        for half in [Half::Learned, Half::Unseen] {
            let all = messages(seed, half, 60);
            for queue in Queue::ALL {
                let of = all.iter().filter(|m| m.right.queue == queue);
                assert_eq!(of.clone().count(), 15);
                assert_eq!(of.filter(|m| m.right.order_id.is_none()).count(), 5);
            }
            for message in &all {
                assert!(!message.text.contains(['{', '}']), "a gap was left open: {}", message.text);
                let number = numbers(&message.text).into_iter().next();
                assert_eq!(number, message.right.order_id, "{}", message.text);
            }
            let alternating = all.windows(4).filter(|w| w.iter().all(|m| m.right.queue == w[0].right.queue));
            assert!(alternating.count() < 5, "the order says nothing");
        }
    }
}

#[test]
fn the_checker_takes_the_two_keys_once_with_the_right_values_and_nothing_else() {
    let right = Ticket { queue: Queue::Billing, order_id: Some("12345".into()) };
    let exact = |said: &str| Verdict::of(said, &right).exact();
    assert_eq!(right.to_string(), r#"{"queue": "billing", "order_id": "12345"}"#);
    assert!(exact(&right.to_string()));
    assert!(exact("\n {\"order_id\":\"12345\",\"queue\":\"billing\"} \n"));
    for wrong in [
        "",
        "null",
        r#"["billing", "12345"]"#,
        r#"{"queue": "billing", "order_id": 12345}"#,
        r#"{"queue": "billing", "order_id": null}"#,
        r#"{"queue": "billing"}"#,
        r#"{"queue": "Billing", "order_id": "12345"}"#,
        r##"{"queue": "billing", "order_id": "#12345"}"##,
        r#"{"queue": "billing", "order_id": "12345", "priority": "low"}"#,
        r#"{"queue": "account", "queue": "billing", "order_id": "12345"}"#,
        r#"{"queue": "billing", "order_id": "12345",}"#,
        r#"{'queue': 'billing', 'order_id': '12345'}"#,
        r#"Sure! {"queue": "billing", "order_id": "12345"}"#,
        r#"{"queue": "billing", "order_id": "12345"} Is there anything else?"#,
        "```json\n{\"queue\": \"billing\", \"order_id\": \"12345\"}\n```",
    ] {
        assert!(!exact(wrong), "{wrong} was taken");
    }
    let none = Ticket { queue: Queue::Account, order_id: None };
    assert!(Verdict::of(&none.to_string(), &none).exact());
    assert!(!Verdict::of(r#"{"queue": "account"}"#, &none).valid, "a key that is missing is not null");
    let half = Verdict::of(r#"{"queue": "account", "order_id": "12345"}"#, &right);
    assert!(half.valid && half.order_id && !half.queue && !half.exact());
}

#[test]
fn shuffled_tickets_are_the_same_ones_on_other_messages() {
    let all = messages(1, Half::Learned, 60);
    let dealt = shuffled(&all, 1);
    let sorted = |messages: &[Message]| {
        let mut tickets: Vec<String> = messages.iter().map(|m| m.right.to_string()).collect();
        tickets.sort();
        tickets
    };
    assert_eq!(sorted(&all), sorted(&dealt));
    assert!(all.iter().zip(&dealt).all(|(a, b)| a.text == b.text));
    let kept = all.iter().zip(&dealt).filter(|(a, b)| a.right == b.right).count();
    assert!(kept < 12, "{kept} tickets stayed where they were");
}

#[test]
fn the_best_prompt_shows_an_example_of_each_queue_and_the_plain_one_none() {
    let plain = Prompt::Plain.messages("Help!");
    let worked = Prompt::Worked.messages("Help!");
    assert_eq!(plain.as_array().map(Vec::len), Some(2));
    assert_eq!(worked.as_array().map(Vec::len), Some(10));
    assert_eq!(worked[0], plain[0]);
    assert_eq!(worked[9], plain[1]);
    let system = plain[0]["content"].as_str().unwrap_or_default();
    assert_eq!(system.lines().count(), 4);
    for (answer, queue) in [2, 4, 6, 8].into_iter().zip(Queue::ALL) {
        let said = worked[answer]["content"].as_str().unwrap_or_default();
        assert!(said.contains(&serde_json::to_string(&queue).unwrap()), "{said}");
    }
}

/// A proxy that takes feedback on what it answered: it sorts every other message right, and repeats the rest.
fn proxy(right: Vec<Message>, told: Arc<Mutex<Vec<Value>>>) -> axum::Router {
    let complete = async move |body: Bytes| {
        let request: Value = serde_json::from_slice(&body).unwrap();
        let asked = request["messages"].as_array().and_then(|m| m.last()).map(|m| m["content"].clone());
        let asked = asked.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        let place = right.iter().position(|m| m.text == asked);
        let said = match place.filter(|place| place % 2 == 0) {
            Some(place) => right[place].right.to_string(),
            None => asked,
        };
        let message = json!({"role": "assistant", "content": said});
        let id = format!("chatcmpl-{}", place.map_or(-1, |p| p as i64));
        let answer = json!({
            "id": id, "object": "chat.completion", "created": 0, "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        });
        answer.to_string()
    };
    let feedback = async move |body: Bytes| {
        told.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        StatusCode::ACCEPTED
    };
    axum::Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/remora/v1/feedback", post(feedback))
}

#[tokio::test]
async fn every_wrong_answer_is_corrected_and_every_right_one_confirmed() {
    let all = messages(5, Half::Learned, 12);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let served = axum::serve(listener, proxy(all.clone(), told.clone()));
    let work = async {
        let desk = Desk::new(&base, "alias", "tickets");
        let mut heard = 0;
        let day = desk.ask(&all, &mut || heard += 1).await.unwrap();
        assert_eq!((heard, day.n(), day.exact(), day.valid()), (12, 12, 6, 6));
        assert!(day.asked.iter().enumerate().all(|(i, a)| a.index == i && a.verdict.exact() == (i % 2 == 0)));
        let told = desk.correct(&day, &all).await.unwrap();
        assert_eq!(told, Feedback { confirmed: 6, corrected: 6, refused: 0 });
    };
    tokio::select! {
        served = std::future::IntoFuture::into_future(served) => panic!("the server stopped: {served:?}"),
        () = work => {}
    }
    for said in told.lock().unwrap().iter() {
        let place: usize = said["response_id"].as_str().unwrap()["chatcmpl-".len()..].parse().unwrap();
        let (label, correction) = match place % 2 {
            0 => ("success", Value::Null),
            _ => ("failure", all[place].right.to_string().into()),
        };
        assert_eq!((&said["label"], &said["correction"]), (&label.into(), &correction));
    }
}

#[test]
fn the_report_has_both_days_and_says_who_was_refused() {
    let asked = |exact: bool| Asked {
        index: 0,
        response_id: None,
        said: String::new(),
        verdict: Verdict { valid: true, queue: exact, order_id: true },
    };
    let day = |right: usize| Day { asked: (0..10).map(|i| asked(i < right)).collect(), seconds: 3.0 };
    let (plain, day1, day2) = (day(0), day(2), day(9));
    let mut night =
        Night { learned_from: 48, held_out: 12, alias: "default-tickets".into(), ..Night::default() };
    let forgotten = Forgotten { perplexity: Some((30.0, 31.5)), questions: 12, answered: (8, 7) };
    let report = |night: &Night| {
        let report = Report {
            model: "default",
            seed: 1,
            shuffled: false,
            corrected_on: &plain,
            feedback: Feedback { corrected: 10, ..Feedback::default() },
            day1: &day1,
            night,
            day2: &day2,
            forgotten,
            seconds: 9.0,
            dashboard: "http://x",
        };
        (text(&report, crate::demo::report::Style::Plain), json(&report))
    };
    let (said, data) = report(&night);
    assert!(said.contains("refused: default-tickets stays the base"), "{said}");
    for expected in
        ["10 corrections", "2 of 10", "9 of 10", "+70 points", "(+5.0 %)", "8 of 12", "7 by default-tickets"]
    {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    assert_eq!((&data["day1"]["n"], &data["day1"]["success"]), (&json!(10), &json!(2)));
    assert_eq!((&data["day2"]["n"], &data["day2"]["success"]), (&json!(10), &json!(9)));
    assert!((data["forgotten"]["perplexity_rise"].as_f64().unwrap() - 0.05).abs() < 1e-9);
    night.kept = true;
    night.version = Some("a-1".into());
    assert!(report(&night).0.contains("kept: a-1 answers as default-tickets"), "{said}");
}
