//! What is kept, for how long, and what becomes of databases that turn out damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use remora::config::{Durability, Retention};
use remora::model::{Body, Ended, Exchange, ExchangeId, Headers, Micros, Response, Scope, Timing};
use remora::store::{DataDir, RecordWriter, Store, StoreError, TrajectoryFilter, retention};
use serde_json::json;

use crate::harness::{Sidecar, Upstream, completion, plain, until};

const GARBAGE: &[u8] = b"this is no database, whatever its name says. ";
/// 2026-11-21T12:00:00Z.
const NOON: Micros = Micros(1_795_262_400_000_000);
const A_DAY: Duration = Duration::from_secs(86_400);

fn ask(question: &str) -> Vec<u8> {
    json!({"model": "m", "messages": [{"role": "user", "content": question}]}).to_string().into_bytes()
}

/// Replaces all of a file, or all but its first 100 bytes, which say that it is a database.
fn damage(path: &Path, kept: usize) {
    let mut bytes = std::fs::read(path).expect("it is there");
    let size = bytes.len().max(4096);
    bytes.truncate(kept);
    bytes.extend(GARBAGE.iter().cycle().take(size - kept));
    std::fs::write(path, bytes).expect("written");
}

/// What lies in quarantine, by folder and file.
fn quarantined(data: &Path) -> Vec<PathBuf> {
    let Ok(folders) = std::fs::read_dir(data.join("quarantine")) else { return Vec::new() };
    let files = folders.flatten().flat_map(|f| std::fs::read_dir(f.path()).expect("a folder").flatten());
    files.map(|file| file.path()).collect()
}

async fn upstream() -> Upstream {
    Upstream::always(plain("200 OK", "", &completion("resp-7", "the parcel is in Lisbon"))).await
}

/// A data directory with one recorded and assembled conversation.
async fn used(upstream: &Upstream) -> tempfile::TempDir {
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    sidecar.post("/v1/chat/completions", "", &ask("where is my parcel")).await;
    sidecar.recorded(1).await;
    remora::trajectory::catch_up(sidecar.store()).expect("assembled");
    sidecar.stop().await;
    sidecar.dir
}

fn today() -> String {
    Micros::now().day()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_moved_aside_at_the_start_and_recording_goes_on() {
    let upstream = upstream().await;
    for name in ["record.db", "insight.db", "payloads/DAY.db"] {
        for kept in [0, 100] {
            let dir = used(&upstream).await;
            let path = dir.path().join(name.replace("DAY", &today()));
            damage(&path, kept);
            let damaged = std::fs::read(&path).expect("readable");

            let sidecar = Sidecar::again(dir, &upstream.url(), |_| {}).await;
            let case = format!("{name}, {kept} bytes kept");
            let found = quarantined(sidecar.path());
            assert_eq!(found.len(), 1, "{case}: {found:?}");
            assert_eq!(std::fs::read(&found[0]).expect("readable"), damaged, "{case}");
            assert_eq!(sidecar.metric("remora_quarantined_databases").await, 1.0, "{case}");

            let before = sidecar.exchanges().len();
            assert_eq!(before, usize::from(name != "record.db"), "{case}");
            let question = ask("where is my refund");
            sidecar.post("/v1/chat/completions", "", &question).await;
            let all = sidecar.recorded(before + 1).await;
            assert_eq!(all[before].request_body.bytes, question, "{case}");
            // The new one is assembled, and what was known before is still there where it can be.
            remora::trajectory::catch_up(sidecar.store()).expect("assembled");
            let trajectories = sidecar.store().trajectories(&TrajectoryFilter::default()).expect("listed");
            assert_eq!(trajectories.len(), 2, "{case}");
            for trajectory in &trajectories {
                let turns = sidecar.store().turns(trajectory.id).expect("readable");
                assert_eq!(turns.len(), 1, "{case}");
                remora::trajectory::transcript(sidecar.store(), trajectory.id).expect("readable");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn todays_payload_file_that_is_damaged_under_way_costs_its_bodies_and_not_the_days() {
    let upstream = upstream().await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    sidecar.post("/v1/chat/completions", "", &ask("first")).await;
    sidecar.recorded(1).await;
    // Somebody restores what is no database, after what was there was carried over from the log.
    let path = DataDir::new(sidecar.path()).payload_db(&today());
    let db = rusqlite::Connection::open(&path).expect("it opens");
    db.pragma(None, "wal_checkpoint", "truncate", |_| Ok(())).expect("carried over");
    drop(db);
    let other = sidecar.path().join("restored");
    std::fs::write(&other, GARBAGE.repeat(200)).expect("written");
    std::fs::rename(&other, &path).expect("moved");

    sidecar.post("/v1/chat/completions", "", &ask("second")).await;
    let all = sidecar.recorded(2).await;
    assert!(all[0].request_body.truncated && all[0].request_body.bytes.is_empty());
    assert_eq!(all[1].request_body.bytes, ask("second"));
    let found = quarantined(sidecar.path());
    assert!(
        found.iter().any(|file| std::fs::read(file).expect("readable") == GARBAGE.repeat(200)),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_stays_where_it_is() {
    for name in ["record.db", "insight.db", "payloads/DAY.db"] {
        let dir = used(&upstream().await).await;
        let path = dir.path().join(name.replace("DAY", &today()));
        let db = rusqlite::Connection::open(&path).expect("it opens");
        db.pragma_update(None, "user_version", 99).expect("set");
        drop(db);
        let refused = Store::open_or_quarantine(&DataDir::new(dir.path())).expect_err("it is newer");
        assert!(matches!(refused, StoreError::Newer { .. }), "{refused}");
        assert!(path.exists() && quarantined(dir.path()).is_empty());
    }
}

#[tokio::test]
async fn a_database_that_another_process_holds_is_no_damaged_one() {
    let dir = used(&upstream().await).await;
    let db = rusqlite::Connection::open(dir.path().join("record.db")).expect("it opens");
    db.execute_batch("BEGIN IMMEDIATE").expect("held");
    Store::open_or_quarantine(&DataDir::new(dir.path())).expect("it is only read at the start");
    assert!(quarantined(dir.path()).is_empty());
}

/// An exchange that began then, with bodies of its own of some KB.
fn exchange(started: Micros, number: usize) -> Exchange {
    let text: String = (0..200).map(|n| format!("{:x} ", (number * 1000 + n) * 0x9e37_79b9)).collect();
    let body = Body::whole(ask(&text).into());
    Exchange {
        id: ExchangeId::new(),
        scope: Scope::default(),
        connection: 1,
        client_key: None,
        method: "POST".into(),
        target: "/v1/chat/completions".into(),
        upstream: "http://127.0.0.1:1".into(),
        request_headers: Headers(vec![("user-agent".into(), text)]),
        request_body: body.clone(),
        response: Some(Response { status: 200, headers: Headers::default(), body }),
        timing: Timing { started, head: None, first_byte: None, ended: started },
        ended: Ended::Complete,
        detail: None,
    }
}

/// Exchanges on each of the days from `oldest` days ago to now.
fn record(dir: &DataDir, oldest: u32, each: usize) {
    let mut writer = RecordWriter::open(dir, Durability::Process).expect("it opens");
    for ago in (0..=oldest).rev() {
        let day = NOON.minus(A_DAY * ago);
        let all: Vec<Exchange> = (0..each).map(|n| exchange(day, ago as usize * each + n)).collect();
        all.chunks(100).for_each(|batch| writer.write(batch).expect("written"));
    }
}

fn occupied(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("readable").flatten();
    entries
        .map(|e| if e.path().is_dir() { occupied(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
        .sum()
}

#[test]
fn days_past_the_limit_are_dropped_and_their_space_comes_back() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = DataDir::new(temporary.path());
    record(&dir, 9, 700);
    let store = Store::open(&dir).expect("it opens");
    // Held open by a reader, which must let go of it.
    let (_, first) = store.exchange_after(0).expect("readable").expect("there");
    assert!(!first.request_body.bytes.is_empty());
    let before = occupied(dir.path());
    let keep = Retention { days: Some(3), bytes: None };
    let dropped = retention::apply(&store, &keep, NOON, &|| true).expect("dropped");
    assert_eq!(dropped.days.len(), 6);
    assert_eq!(dropped.rows, 6 * 700);
    assert!(dropped.batches >= 12, "{} batches: each is small", dropped.batches);
    assert_eq!(dir.payload_days().expect("readable").len(), 4);
    assert_eq!(store.recorded().expect("readable").0, 4 * 700);
    drop(store);
    let after = occupied(dir.path());
    assert!(after < before / 2, "{before} bytes before, {after} after");
    // Nothing more to do, and nothing done.
    let store = Store::open(&dir).expect("it opens");
    let again = retention::apply(&store, &keep, NOON, &|| true).expect("looked at");
    assert_eq!(again, retention::Dropped::default());
}

#[test]
fn a_limit_of_bytes_drops_the_oldest_days_and_never_today() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = DataDir::new(temporary.path());
    record(&dir, 5, 200);
    let store = Store::open(&dir).expect("it opens");
    let before = store.recorded_bytes().expect("readable");
    let keep = |bytes| Retention { days: None, bytes: Some(bytesize::ByteSize(bytes)) };
    let dropped = retention::apply(&store, &keep(before * 2 / 3), NOON, &|| true).expect("dropped");
    assert!((1..5).contains(&dropped.days.len()), "{dropped:?}");
    assert_eq!(dropped.days[0], NOON.minus(A_DAY * 5).day());
    assert!(store.recorded_bytes().expect("readable") <= before * 2 / 3);
    retention::apply(&store, &keep(1), NOON, &|| true).expect("dropped");
    assert_eq!(dir.payload_days().expect("readable"), [NOON.day()]);
    assert_eq!(store.recorded().expect("readable").0, 200);
}

#[test]
fn retention_that_was_interrupted_goes_on_where_it_was() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = DataDir::new(temporary.path());
    record(&dir, 3, 700);
    let store = Store::open(&dir).expect("it opens");
    let keep = Retention { days: Some(1), bytes: None };
    let (mut rows, mut rounds) = (0, 0);
    loop {
        // Each time it is told to stop after one batch.
        let asked = AtomicUsize::new(0);
        let one = || asked.fetch_add(1, Ordering::Relaxed) == 0;
        let dropped = retention::apply(&store, &keep, NOON, &one).expect("dropped");
        rows += dropped.rows;
        rounds += 1;
        if store.recorded().expect("readable").0 == 1400 && dir.payload_days().expect("readable").len() == 2 {
            break;
        }
        assert!(rounds < 100, "{rows} rows in {rounds} rounds");
    }
    assert_eq!(rows, 1400);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_days_are_dropped_while_new_exchanges_are_written() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = DataDir::new(temporary.path());
    record(&dir, 4, 1200);
    let store = Store::open(&dir).expect("it opens");
    let done = Arc::new(AtomicBool::new(false));
    let (stop, at) = (done.clone(), dir.clone());
    let load = tokio::task::spawn_blocking(move || {
        let mut writer = RecordWriter::open(&at, Durability::Process).expect("it opens");
        let mut written = Vec::new();
        while !stop.load(Ordering::Relaxed) || written.len() < 10 {
            let one = exchange(NOON, 1_000_000 + written.len());
            writer.write(std::slice::from_ref(&one)).expect("it is written beside it");
            written.push(one);
        }
        written
    });
    let (swept, stop) = (store.clone(), done.clone());
    let dropped = tokio::task::spawn_blocking(move || {
        let keep = Retention { days: Some(1), bytes: None };
        let dropped = retention::apply(&swept, &keep, NOON, &|| true);
        stop.store(true, Ordering::Relaxed);
        dropped.expect("dropped")
    });
    let (written, dropped) = (load.await.expect("it wrote"), dropped.await.expect("it dropped"));
    assert_eq!(dropped.rows, 3 * 1200);
    assert_eq!(store.recorded().expect("readable").0, 2 * 1200 + written.len() as u64);
    for one in &written {
        let read = store.exchange(one.id).expect("readable").expect("recorded");
        assert_eq!(read.request_body, one.request_body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_of_a_day_outlives_it() {
    let upstream = upstream().await;
    let dir = used(&upstream).await;
    let store = Store::open(&DataDir::new(dir.path())).expect("it opens");
    let before = store.trajectories(&TrajectoryFilter::default()).expect("listed");
    let turns = store.turns(before[0].id).expect("readable");
    let later = Micros::now().plus(A_DAY * 40);
    let dropped = retention::apply(&store, &Retention::default(), later, &|| true).expect("dropped");
    assert_eq!(dropped.rows, 1);
    assert_eq!(store.recorded().expect("readable").0, 0);
    let after = store.trajectories(&TrajectoryFilter::default()).expect("listed");
    assert_eq!(after.len(), before.len());
    let kept = store.turns(after[0].id).expect("readable");
    assert_eq!(kept.len(), turns.len());
    assert_eq!(kept[0].step.usage, turns[0].step.usage);
    assert_eq!(kept[0].step.response_id, turns[0].step.response_id);
    assert!(kept[0].step.started.until(turns[0].step.started) < Duration::from_secs(1));
    drop(store);
    // The next exchange is counted on from there, and joined.
    let sidecar = Sidecar::again(dir, &upstream.url(), |_| {}).await;
    sidecar.post("/v1/chat/completions", "", &ask("where is my refund")).await;
    sidecar.recorded(1).await;
    remora::trajectory::catch_up(sidecar.store()).expect("assembled");
    let all = sidecar.store().trajectories(&TrajectoryFilter::default()).expect("listed");
    assert_eq!(all.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_sidecar_says_what_it_has_stored() {
    let upstream = upstream().await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    sidecar.post("/v1/chat/completions", "", &ask("first")).await;
    sidecar.recorded(1).await;
    assert_eq!(sidecar.metric("remora_quarantined_databases").await, 0.0);
    let days = until("the day", || Some(sidecar.store().stored_days().expect("readable"))).await;
    assert_eq!((days.len(), days[0].exchanges, &days[0].day), (1, 1, &today()));
    assert!(days[0].raw > 100 && days[0].stored > 0);
}

/// Writes the exchanges of a data directory again, and says what they occupy and what it cost.
/// `REMORA_MEASURE=DIR cargo test --test it measure -- --ignored --nocapture`
#[test]
#[ignore = "needs a data directory with recorded traffic, named by REMORA_MEASURE"]
fn measure_what_recorded_traffic_occupies() {
    let from = std::env::var_os("REMORA_MEASURE").expect("REMORA_MEASURE names a data directory");
    let store = Store::open(&DataDir::new(from)).expect("it opens");
    let mut all = Vec::new();
    let mut after = 0;
    while let Some((seq, one)) = store.exchange_after(after).expect("readable") {
        after = seq;
        all.push(one);
    }
    let bodies = || {
        all.iter().flat_map(|e| {
            [Some(&e.request_body.bytes), e.response.as_ref().map(|r| &r.body.bytes)].into_iter().flatten()
        })
    };
    let raw: usize = bodies().map(|b| b.len()).sum();
    let share = |bytes: usize| format!("{bytes} bytes, {:.2} %", bytes as f64 * 100.0 / raw as f64);
    let packed = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("packed").len();
    println!("{} exchanges, {raw} bytes of bodies", all.len());
    println!("zstd -3 of each body:    {}", share(bodies().map(|b| packed(b)).sum()));
    let whole: Vec<u8> = bodies().flat_map(|b| b.iter().copied()).collect();
    println!("zstd -3 of all in a row: {}", share(packed(&whole)));
    for batch in [1, 8, 64, 256] {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::new(temporary.path());
        let mut writer = RecordWriter::open(&dir, Durability::Process).expect("it opens");
        let begun = Instant::now();
        all.chunks(batch).for_each(|some| writer.write(some).expect("written"));
        let each = begun.elapsed() / all.len() as u32;
        drop(writer);
        let stored = occupied(&dir.path().join("payloads")) as usize;
        let rows = std::fs::metadata(dir.record_db()).expect("there").len();
        println!(
            "batches of {batch}: payloads {}; record.db {rows} bytes; {each:?} an exchange",
            share(stored)
        );
        let begun = Instant::now();
        let copy = Store::open(&dir).expect("it opens");
        for one in &all {
            let read = copy.exchange(one.id).expect("readable").expect("there");
            assert_eq!(read.request_body, one.request_body);
        }
        println!("  read back in {:?} an exchange", begun.elapsed() / all.len() as u32);
    }
}
