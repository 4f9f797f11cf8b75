use std::collections::HashSet;

use super::*;

const SEEDS: [u64; 4] = [0, 1, 2, 77];

/// Six words in a row, digits masked: what two texts share when they share a sentence of the pools.
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
