mod damage;

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::params;

use super::*;
use crate::model::{Label, Message, Role, Scope, Silent, ToolCall, TrajectoryId, Transcript};
use crate::store::{DataDir, Store};

/// A store in a temporary directory, and what was said in its trajectories.
struct World {
    _dir: tempfile::TempDir,
    store: Store,
    said: HashMap<TrajectoryId, Vec<Message>>,
    seq: i64,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DataDir::new(dir.path())).unwrap();
        Self { _dir: dir, store, said: HashMap::new(), seq: 0 }
    }

    /// A trajectory of tenant `t` whose task is the first message.
    fn add(&mut self, app: &str, label: Label, messages: &[(Role, &str)]) -> TrajectoryId {
        let id = TrajectoryId::new();
        self.seq += 1;
        let seq = self.seq;
        self.store
            .write("add a trajectory", |tx| {
                tx.execute(
                    "INSERT INTO trajectory (id, tenant, app, user, link, link_confidence, started, ended, exchanges, \
                     task, last_seq, label, assessed) VALUES (?1, 't', ?2, '', 'first', 1, ?3, ?3, 1, ?4, ?3, ?5, 1)",
                    params![id.as_bytes(), app, seq, messages[0].1, label.as_str()],
                )
            })
            .unwrap();
        let messages = messages
            .iter()
            .map(|(role, text)| Message { role: *role, text: (*text).to_owned(), ..Message::default() })
            .collect();
        self.said.insert(id, messages);
        id
    }

    /// One more exchange in it.
    fn touch(&mut self, id: TrajectoryId, text: &str) {
        self.seq += 1;
        let seq = self.seq;
        self.store
            .write("touch a trajectory", |tx| {
                tx.execute(
                    "UPDATE trajectory SET revision = revision + 1, last_seq = ?2 WHERE id = ?1",
                    params![id.as_bytes(), seq],
                )
            })
            .unwrap();
        self.said.get_mut(&id).unwrap().push(Message { text: text.to_owned(), ..Message::default() });
    }

    fn catch_up(&self, index: &Index) -> CaughtUp {
        self.catch_up_by(index, &Lexical)
    }

    fn catch_up_by(&self, index: &Index, embedder: &dyn Embedder) -> CaughtUp {
        index.catch_up_with(&self.store, embedder, &Silent, &|id| Ok(self.transcript(id))).unwrap()
    }

    fn transcript(&self, id: TrajectoryId) -> Option<Transcript> {
        self.said.get(&id).map(|messages| Transcript {
            trajectory: id,
            scope: Scope::default(),
            messages: messages.clone(),
            steps: Vec::new(),
            tools: Vec::new(),
            output_schema: None,
        })
    }

    fn find(&self, index: &Index, text: &str) -> Vec<TrajectoryId> {
        self.hits(index, text, &Filter::default()).iter().map(|h| h.trajectory.id).collect()
    }

    fn hits(&self, index: &Index, text: &str, filter: &Filter) -> Vec<Hit> {
        query(index, &self.store, &Lexical, text, filter).unwrap()
    }
}

fn support_desk() -> (World, [TrajectoryId; 3]) {
    let mut world = World::new();
    let refund = world.add(
        "desk",
        Label::Failure,
        &[
            (Role::User, "Please refund order 1234, the mug arrived broken"),
            (Role::System, "You are a zebra"),
            (Role::Assistant, "The refund window of 30 days has closed, says <b>policy</b>."),
        ],
    );
    let flight = world.add("travel", Label::Success, &[(Role::User, "Book a flight from Berlin to Lisbon")]);
    let chinese = world.add("desk", Label::Success, &[(Role::User, "我想退款，订单 99")]);
    (world, [refund, flight, chinese])
}

#[test]
fn an_empty_store_finds_nothing_and_is_caught_up() {
    let world = World::new();
    let index = Index::open(&world.store).unwrap();
    assert_eq!(world.catch_up(&index), CaughtUp::default());
    assert!(world.find(&index, "refund").is_empty());
}

#[test]
fn trajectories_are_found_by_words_and_by_meaning_and_say_which() {
    let (world, [refund, flight, chinese]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    assert_eq!(world.catch_up(&index), CaughtUp { indexed: 3, embedded: 3, note: None });
    assert_eq!(world.catch_up(&index), CaughtUp::default(), "nothing is done twice");

    let hits = world.hits(&index, "refund window", &Filter::default());
    assert_eq!(hits[0].trajectory.id, refund);
    assert_eq!(hits[0].why.words, Some(1));
    assert!(hits[0].snippet.contains("refund window of 30 days"), "{}", hits[0].snippet);
    assert!(
        hits[0].snippet.ends_with("<b>policy</b"),
        "the text as it is, no HTML made: {}",
        hits[0].snippet
    );

    // No word in common, but letter groups.
    let hits = world.hits(&index, "flights berliner", &Filter::default());
    assert_eq!(hits[0].trajectory.id, flight);
    assert_eq!((hits[0].why.words, hits[0].why.meaning), (None, Some(1)));
    assert_eq!(hits[0].snippet, "Book a flight from Berlin to Lisbon");

    assert_eq!(world.find(&index, "退款"), [chinese]);
    assert!(world.find(&index, "zebra").is_empty(), "the system prompt is not indexed");
    assert!(world.find(&index, "  ").is_empty());
}

#[test]
fn tool_names_and_arguments_are_found() {
    let mut world = World::new();
    let id = world.add("desk", Label::Success, &[(Role::User, "hello")]);
    world.said.get_mut(&id).unwrap().push(Message {
        role: Role::Assistant,
        tool_calls: vec![ToolCall {
            id: "1".into(),
            name: "issue_voucher".into(),
            arguments: r#"{"euro": 5}"#.into(),
        }],
        ..Message::default()
    });
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    for text in ["tool:voucher", "issue_voucher", "euro", "tool:\"issue voucher\""] {
        assert_eq!(world.find(&index, text), [id], "{text}");
    }
    assert!(world.hits(&index, "tool:hello", &Filter::default()).iter().all(|h| h.why.words.is_none()));
}

#[test]
fn filters_hold_for_both_lists() {
    let (world, [refund, ..]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    let found = |filter: Filter| -> Vec<TrajectoryId> {
        world.hits(&index, "refund mug OR flight OR 退款", &filter).iter().map(|h| h.trajectory.id).collect()
    };
    assert_eq!(found(Filter::default()).len(), 3);
    assert_eq!(found(Filter { app: Some("desk".into()), ..Filter::default() }).len(), 2);
    assert_eq!(found(Filter { label: Some(Label::Failure), ..Filter::default() }), [refund]);
    assert_eq!(found(Filter { limit: 1, ..Filter::default() }).len(), 1);
    assert!(found(Filter { tenant: Some("other".into()), ..Filter::default() }).is_empty());
}

#[test]
fn a_label_given_after_indexing_counts() {
    let (world, [refund, ..]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    let relabel = "UPDATE trajectory SET label = 'success' WHERE id = ?1";
    world.store.write("relabel", |tx| tx.execute(relabel, [refund.as_bytes()])).unwrap();
    let failures = Filter { label: Some(Label::Failure), ..Filter::default() };
    assert!(world.hits(&index, "refund", &failures).is_empty());
}

#[test]
fn no_query_fails() {
    let (world, [refund, ..]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    for text in [
        "refund: mug",
        "refund AND (",
        "\"refund",
        "refund)))) ]",
        "refund nosuchfield:x",
        "/refund/ mug",
        "refund ~ ^",
        "+refund -",
    ] {
        assert_eq!(world.find(&index, text).first(), Some(&refund), "{text}");
    }
    let deep = ["(", "NOT ", "a OR (", "-", "a:", "\"", "[", "a^2 ", "~", "(a b"]
        .into_iter()
        .flat_map(|piece| [piece.repeat(10), piece.repeat(499 / piece.len()), piece.repeat(50_000)])
        .collect::<Vec<_>>();
    for text in
        ["*", "-", "\0", "🦀", "AND OR NOT", "[a TO", "退"].into_iter().chain(deep.iter().map(String::as_str))
    {
        let _ = world.find(&index, text);
    }
}

#[test]
fn a_changed_trajectory_replaces_its_document() {
    let (mut world, [refund, ..]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    world.touch(refund, "never mind, send a platypus instead");
    assert!(world.find(&index, "platypus").is_empty());
    assert_eq!(world.catch_up(&index), CaughtUp { indexed: 1, embedded: 1, note: None });
    assert_eq!(world.find(&index, "platypus")[0], refund);
    assert_eq!(index.documents(), 3);
}

#[test]
fn a_kill_between_index_and_mark_indexes_again_and_doubles_nothing() {
    let (world, [refund, ..]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    world.store.reset_indexed().unwrap();
    assert_eq!(world.catch_up(&index).indexed, 3);
    assert_eq!(world.find(&index, "broken"), [refund]);
    assert_eq!(index.documents(), 3);
}

#[test]
fn what_was_forgotten_is_found_no_more() {
    let (world, [refund, flight, _]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    let holds = |word: &str| {
        let files = fs::read_dir(world.store.dir().index()).unwrap();
        files
            .filter(|f| {
                fs::read(f.as_ref().unwrap().path())
                    .unwrap()
                    .windows(word.len())
                    .any(|w| w == word.as_bytes())
            })
            .count()
    };
    assert!(holds("arrived") > 0 && holds("Lisbon") > 0);
    index.forget(&[refund]).unwrap();
    assert!(holds("arrived") == 0 && holds("Lisbon") > 0, "off the disk, not only marked");
    assert!(world.hits(&index, "mug", &Filter::default()).iter().all(|h| h.why.words.is_none()));
    let delete = "DELETE FROM trajectory WHERE id = ?1";
    world.store.write("forget", |tx| tx.execute(delete, [flight.as_bytes()])).unwrap();
    assert!(!world.find(&index, "flight").contains(&flight), "also where only the store forgot");
}

#[test]
fn a_trajectory_whose_bodies_are_gone_is_found_by_its_task() {
    let (mut world, [refund, ..]) = support_desk();
    world.said.clear();
    let index = Index::open(&world.store).unwrap();
    assert_eq!(world.catch_up(&index).indexed, 3);
    let hits = world.hits(&index, "mug", &Filter::default());
    assert_eq!((hits[0].trajectory.id, hits[0].why.words), (refund, Some(1)));
    assert_eq!(hits[0].snippet, "Please refund order 1234, the mug arrived broken");
}

/// Fails after so many calls.
struct Failing(AtomicUsize);

impl Embedder for Failing {
    fn name(&self) -> &str {
        "failing"
    }
    fn dimensions(&self) -> usize {
        384
    }
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let left = self.0.load(Ordering::Relaxed);
        if left == 0 {
            return Err(EmbedError::NotBuilt);
        }
        self.0.store(left - 1, Ordering::Relaxed);
        Lexical.embed(texts)
    }
}

#[test]
fn an_embedder_that_fails_leaves_the_words_and_is_caught_up_later() {
    let (mut world, [refund, ..]) = support_desk();
    for i in 0..200 {
        world.add("bulk", Label::Unknown, &[(Role::User, &format!("filler number {i}"))]);
    }
    let index = Index::open(&world.store).unwrap();
    let failing = Failing(AtomicUsize::new(1));
    let done = world.catch_up_by(&index, &failing);
    assert_eq!((done.indexed, done.embedded), (203, 64));
    assert!(done.note.unwrap().contains("only found by words"));
    let found = query(&index, &world.store, &failing, "broken mug", &Filter::default()).unwrap();
    assert_eq!(found[0].trajectory.id, refund);

    failing.0.store(9, Ordering::Relaxed);
    assert_eq!(world.catch_up_by(&index, &failing), CaughtUp { indexed: 0, embedded: 139, note: None });
}

#[test]
fn vectors_of_two_embedders_are_kept_apart() {
    let (world, [refund, ..]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    let other = Failing(AtomicUsize::new(9));
    assert_eq!(world.catch_up_by(&index, &other), CaughtUp { indexed: 0, embedded: 3, note: None });
    for name in ["lexical-1", "failing"] {
        assert!(world.store.embedding(name, refund).unwrap().is_some(), "{name}");
    }
    assert!(world.store.embedding("third", refund).unwrap().is_none());
}
