use bytes::Bytes;
use proptest::prelude::*;
use rusqlite::params;

use crate::config::Durability;
use crate::model::{Body, Ended, Exchange, ExchangeId, Headers, Micros, Response, Scope, Timing};
use crate::store::{DataDir, RecordWriter, Store, columns::Col};

/// 2026-11-21T00:00:00Z.
const NOON: Micros = Micros(1_795_219_200_000_000);
const DAY: &str = "2026-11-21";

struct World {
    dir: tempfile::TempDir,
    writer: RecordWriter,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let writer = writer(dir.path());
        Self { dir, writer }
    }

    fn data(&self) -> DataDir {
        DataDir::new(self.dir.path())
    }

    fn restart(&mut self) {
        self.writer = writer(self.dir.path());
    }

    fn write(&mut self, exchanges: &[Exchange]) {
        self.writer.write(exchanges).expect("it is written");
    }

    /// Expects that all of it can be read, whatever was written since.
    fn holds(&self, exchanges: &[Exchange]) {
        let store = Store::open(&self.data()).expect("it opens");
        for exchange in exchanges {
            let read = store.exchange(exchange.id).expect("it is read").expect("it is there");
            assert_eq!(read.request_body, exchange.request_body);
            assert_eq!(read.response.map(|r| r.body), exchange.response.as_ref().map(|r| r.body.clone()));
        }
        assert_eq!(store.damaged_bodies(), 0);
    }

    fn payloads(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.data().payload_db(DAY)).expect("it is there")
    }

    /// The sum over a column of the day's file.
    fn sum(&self, what: &str, table: &str) -> i64 {
        let sql = format!("SELECT coalesce(sum({what}), 0) FROM {table}");
        self.payloads().query_row(&sql, [], |r| r.get(0)).expect("a number")
    }

    /// Bytes in segments, unpacked.
    fn stored(&self) -> i64 {
        self.sum("length", "chunk")
    }
}

fn writer(dir: &std::path::Path) -> RecordWriter {
    RecordWriter::open(&DataDir::new(dir), Durability::Process).expect("it opens")
}

fn exchange(tenant: &str, request: Body, response: Body) -> Exchange {
    Exchange {
        id: ExchangeId::new(),
        scope: Scope { tenant: tenant.into(), ..Scope::default() },
        connection: 1,
        client_key: None,
        method: "POST".into(),
        target: "/v1/chat/completions".into(),
        upstream: "http://127.0.0.1:1".into(),
        request_headers: Headers::default(),
        request_body: request,
        response: Some(Response { status: 200, headers: Headers::default(), body: response }),
        timing: Timing { started: NOON, head: None, first_byte: None, ended: NOON },
        ended: Ended::Complete,
        detail: None,
    }
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Body::whole(bytes.into())
}

/// Text that does not repeat.
fn prose(seed: usize, words: usize) -> String {
    let mut state = seed as u64 + 1;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:05x} ", state >> 44)
    };
    (0..words).map(|_| word()).collect()
}

/// The requests of one conversation, each with the whole history.
fn conversation(tenant: &str, seed: usize, turns: usize) -> Vec<Exchange> {
    let mut messages = vec![format!(r#"{{"role":"system","content":"{}"}}"#, prose(seed, 200))];
    (0..turns)
        .map(|turn| {
            messages.push(format!(r#"{{"role":"user","content":"{}"}}"#, prose(seed + 1000 + turn, 60)));
            let answer = prose(seed + 2000 + turn, 60);
            let request = format!(
                r#"{{"model":"m","messages":[{}],"tools":[{{"type":"function","name":"{}"}}],"stream":true}}"#,
                messages.join(","),
                prose(seed, 20)
            );
            messages.push(format!(r#"{{"role":"assistant","content":"{answer}"}}"#));
            exchange(tenant, body(request), body(format!("data: {answer}\n\ndata: [DONE]\n\n")))
        })
        .collect()
}

#[test]
fn a_conversation_costs_what_is_new_in_each_turn() {
    let cost = |turns: usize| {
        let mut world = World::new();
        let all = conversation("t", 1, turns);
        for one in &all {
            world.write(std::slice::from_ref(one));
        }
        world.holds(&all);
        let lists = world.sum("length(request) + length(response)", "recipe");
        let raw: usize = all.iter().map(|e| e.request_body.bytes.len()).sum();
        (world.stored(), lists, raw)
    };
    let (bytes, lists, raw) = cost(20);
    let (more_bytes, more_lists, more_raw) = cost(80);
    assert!(more_raw > 12 * raw, "the history is sent again each time: {raw}, {more_raw}");
    assert!(more_bytes < 5 * bytes, "{bytes} bytes for 20 turns, {more_bytes} for 80");
    assert!(more_lists < 5 * lists, "{lists} bytes of lists for 20 turns, {more_lists} for 80");
}

#[test]
fn conversations_side_by_side_and_a_restart_between_any_two_turns_cost_no_more() {
    let mut world = World::new();
    let conversations: Vec<Vec<Exchange>> = (0..5).map(|n| conversation("t", n * 7919, 12)).collect();
    let all: Vec<Exchange> = (0..12).flat_map(|t| conversations.iter().map(move |c| c[t].clone())).collect();
    for (n, batch) in all.chunks(7).enumerate() {
        world.write(batch);
        if n % 2 == 0 {
            world.restart();
        }
    }
    world.holds(&all);
    let new: usize = conversations.iter().map(|c| c.last().map_or(0, |e| e.request_body.bytes.len())).sum();
    let answers: usize = all.iter().map(|e| e.response.as_ref().map_or(0, |r| r.body.bytes.len())).sum();
    let stored = usize::try_from(world.stored()).expect("a size");
    assert!(stored < (new + answers) * 11 / 10, "{stored} stored, {} new", new + answers);
}

#[test]
fn the_same_exchange_written_again_changes_nothing() {
    let mut world = World::new();
    let all = conversation("t", 1, 6);
    world.write(&all);
    let tables = ["segment", "chunk", "recipe"];
    let before = tables.map(|t| world.sum("1", t));
    world.write(&all[2..4]);
    world.restart();
    world.write(&all);
    assert_eq!(tables.map(|t| world.sum("1", t)), before);
    world.holds(&all);
}

#[test]
fn tenants_share_nothing() {
    let mut world = World::new();
    let one = conversation("one", 1, 4);
    world.write(&one);
    let alone = world.stored();
    let twice: Vec<Exchange> = one
        .iter()
        .map(|e| exchange("two", e.request_body.clone(), e.response.clone().expect("one").body))
        .collect();
    world.write(&twice);
    assert_eq!(world.stored(), 2 * alone);
    let again: Vec<Exchange> = one
        .iter()
        .map(|e| exchange("one", e.request_body.clone(), e.response.clone().expect("one").body))
        .collect();
    world.write(&again);
    let more = world.stored() - 2 * alone;
    assert!(more < alone / 20, "{more} of {alone} once more for the tenant that has it");
    world.holds(&[one, twice, again].concat());
    // A segment holds one tenant's.
    let mixed: i64 = world
        .payloads()
        .query_row("SELECT count(*) FROM segment WHERE tenant NOT IN ('one', 'two')", [], |r| r.get(0))
        .expect("a number");
    assert_eq!(mixed, 0);
}

#[test]
fn more_tenants_than_are_kept_open_are_written_and_read() {
    let mut world = World::new();
    let conversations: Vec<Vec<Exchange>> =
        (0..9).map(|n| conversation(&format!("tenant {n}"), n * 31, 3)).collect();
    let all: Vec<Exchange> = (0..3).flat_map(|t| conversations.iter().map(move |c| c[t].clone())).collect();
    for batch in all.chunks(10) {
        world.write(batch);
    }
    world.holds(&all);
}

#[test]
fn a_body_of_many_segments_and_a_repeated_one_come_back() {
    let mut world = World::new();
    let long = prose(1, 100_000);
    let image = format!(r#"{{"messages":[{{"role":"user","content":"{long}"}}]}}"#);
    let all = [
        exchange("t", body(image.clone()), body(long.clone())),
        exchange("t", body(image.replace("}]}", "},{\"role\":\"user\"}]}")), body(long.clone())),
        exchange("t", body(format!("before it {long}")), body(Bytes::new())),
    ];
    world.write(&all);
    world.holds(&all);
    let stored = usize::try_from(world.stored()).expect("a size");
    assert!(stored < long.len() * 5 / 2, "{stored} for a text of {} that came five times", long.len());
}

#[test]
fn what_was_kept_of_a_truncated_body_is_checked_by_a_hash_of_its_own() {
    let mut world = World::new();
    let whole = conversation("t", 1, 3);
    let cut = |body: &Body| Body {
        bytes: body.bytes.slice(..body.bytes.len() / 2),
        truncated: true,
        ..body.clone()
    };
    let all: Vec<Exchange> = whole
        .iter()
        .map(|e| exchange("t", cut(&e.request_body), cut(&e.response.as_ref().expect("one").body)))
        .collect();
    world.write(&all);
    world.write(&whole);
    world.holds(&all);
    world.holds(&whole);
}

#[test]
fn a_body_that_is_not_what_it_was_is_counted_and_not_given() {
    let damages: [&str; 5] = [
        "UPDATE chunk SET bytes = zeroblob(length(bytes))",
        "UPDATE chunk SET length = length + 1",
        "DELETE FROM chunk",
        "UPDATE recipe SET request = x'ff'",
        // A recipe that begins with itself.
        "UPDATE recipe SET request = CAST(x'01' || exchange_id || x'7f' AS BLOB)",
    ];
    for damage in damages {
        let mut world = World::new();
        let all = conversation("t", 1, 1);
        world.write(&all);
        world.payloads().execute(damage, []).expect("it is damaged");
        let store = Store::open(&world.data()).expect("it opens");
        let read = store.exchange(all[0].id).expect("it is read").expect("it is there");
        assert!(read.request_body.bytes.is_empty() && read.request_body.truncated, "{damage}");
        assert!(store.damaged_bodies() > 0, "{damage}");
    }
    // One byte of another text, packed well.
    let mut world = World::new();
    let all = conversation("t", 1, 1);
    let mut other = all.clone();
    let swapped = String::from_utf8(all[0].request_body.bytes.to_vec()).expect("text").replacen('m', "n", 1);
    other[0].request_body.bytes = swapped.into();
    world.write(&other);
    let store = Store::open(&world.data()).expect("it opens");
    let read = store.exchange(all[0].id).expect("it is read").expect("it is there");
    assert!(read.request_body.bytes.is_empty() && store.damaged_bodies() == 1);
}

#[test]
fn a_segment_that_grows_is_read_as_far_as_it_goes() {
    let mut world = World::new();
    let store = Store::open(&world.data()).expect("it opens");
    for one in conversation("t", 1, 30) {
        world.write(std::slice::from_ref(&one));
        let read = store.exchange(one.id).expect("it is read").expect("it is there");
        assert_eq!(read.request_body, one.request_body);
    }
}

#[test]
fn a_write_that_failed_leaves_nothing_that_later_ones_count_on() {
    let mut world = World::new();
    let all = conversation("t", 1, 6);
    world.write(&all[..2]);
    let block = "CREATE TRIGGER full BEFORE INSERT ON recipe WHEN (SELECT count(*) FROM recipe) >= 3 \
                 BEGIN SELECT raise(ABORT, 'full'); END";
    world.payloads().execute_batch(block).expect("a trigger");
    world.writer.write(&all[2..]).expect_err("the disk is full, so to speak");
    world.payloads().execute_batch("DROP TRIGGER full").expect("dropped");
    world.write(&all[4..]);
    world.write(&all);
    world.holds(&all);
}

#[test]
fn bodies_of_the_first_schema_are_read_and_more_are_added() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let all = conversation("t", 1, 4);
    drop(writer(dir.path()));
    let path = DataDir::new(dir.path()).payload_db(DAY);
    let db = rusqlite::Connection::open(&path).expect("it opens");
    db.execute_batch(include_str!("../migrations/payload_0001.sql")).expect("the first schema");
    db.pragma_update(None, "user_version", 1).expect("set");
    for (n, one) in all[..2].iter().enumerate() {
        let response = &one.response.as_ref().expect("one").body.bytes;
        for (side, bytes) in [&one.request_body.bytes, response].into_iter().enumerate() {
            let packed = zstd::encode_all(&bytes[..], 1).expect("packed");
            let stored = if n == 0 { &packed[..] } else { &bytes[..] };
            db.execute(
                "INSERT INTO body VALUES (?1, ?2, ?3, ?4)",
                params![Col(one.id), side as i64, n == 0, stored],
            )
            .expect("inserted");
        }
    }
    drop(db);
    let mut world = World { writer: writer(dir.path()), dir };
    // Their rows; the bodies are there.
    for one in &all[..2] {
        let mut row = one.clone();
        row.request_body.bytes = Bytes::new();
        if let Some(response) = &mut row.response {
            response.body.bytes = Bytes::new();
        }
        world.write(&[row]);
    }
    world.write(&all[2..]);
    world.holds(&all);
}

/// Bodies of many kinds, some of them alike.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "[\\[\\]{}\",:\\\\ a]{0,900}".prop_map(String::into_bytes),
        (0usize..4, 0usize..9, any::<bool>()).prop_map(|(seed, messages, tools)| {
            let list: Vec<String> = (0..messages)
                .map(|m| format!(r#"{{"role":"user","content":"{}"}}"#, prose(seed * 100 + m, 40)))
                .collect();
            let tools = if tools { r#","tools":[{"a":1},{"b":[]}]"# } else { "" };
            format!(r#"{{"messages":[{}]{tools}}}"#, list.join(",")).into_bytes()
        }),
        (0usize..3, 1usize..12_000).prop_map(|(seed, words)| prose(seed, words).into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_written_in_whatever_order_comes_back(
        bodies in prop::collection::vec((any_body(), any_body(), 0usize..3, any::<bool>()), 1..24),
        batch in 1usize..6,
        restart_after in 1usize..6,
    ) {
        let mut world = World::new();
        let all: Vec<Exchange> = bodies
            .into_iter()
            .map(|(request, response, tenant, truncated)| {
                let mut request = body(request);
                if truncated {
                    request.bytes = request.bytes.slice(..request.bytes.len() / 3);
                    request.truncated = !request.bytes.is_empty();
                    if !request.truncated { request = body(Bytes::new()); }
                }
                exchange(["", "a", "b"][tenant], request, body(response))
            })
            .collect();
        for (n, some) in all.chunks(batch).enumerate() {
            world.write(some);
            if n % restart_after == 0 {
                world.restart();
                world.write(&some[..1]);
            }
        }
        world.holds(&all);
    }
}
