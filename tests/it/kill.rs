//! A record that a client waited for survives the death of the process; of one under way, what passed does.
//!
//! `REMORA_TEST_KILLS` says how often the process is killed; 15 times without it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use remora::model::{Ended, Exchange};
use remora::store::{DataDir, Store};

use crate::harness::{
    Connection, PATIENCE, Piece, Process, Request, STREAM_HEAD, Seen, Upstream, chunk, echo, is_sound,
    question, recorded, scatter, until,
};

/// On one data directory; then the next is begun, so that what is read after each few kills stays short.
const KILLS: u64 = 15;
const CLIENTS: usize = 8;
/// So much of an exchange under way may be lost.
const LOSS: Duration = Duration::from_secs(2);

fn kills() -> u64 {
    std::env::var("REMORA_TEST_KILLS").ok().map_or(KILLS, |n| n.parse().expect("a number"))
}

/// Asks until the process is gone.
async fn ask(proxy: String, name: String, answered: Arc<AtomicUsize>) -> Vec<Seen> {
    let mut seen = Vec::new();
    let Some(mut connection) = Connection::try_open(&proxy).await else { return seen };
    for n in 0.. {
        let (path, request) = question(&name, n);
        let Some(answer) = connection.try_post(path, &request).await else { break };
        seen.push((request, answer.body));
        answered.fetch_add(1, Ordering::SeqCst);
    }
    seen
}

/// Kills processes on one data directory; says what clients saw.
async fn killed(upstream: &str, rounds: std::ops::Range<u64>) -> Vec<Seen> {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let mut seen: Vec<Seen> = Vec::new();
    for round in rounds.clone() {
        let mut process = Process::start(upstream, &data, scratch.path()).await;
        let answered = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|c| tokio::spawn(ask(process.proxy.clone(), format!("{round}-{c}"), answered.clone())))
            .collect();
        let enough = scatter(round) as usize % 100;
        until("some answers", || (answered.load(Ordering::SeqCst) >= enough).then_some(())).await;
        process.kill();
        for client in clients {
            seen.extend(client.await.expect("a client ends by itself"));
        }
        // In the other rounds the next process is the first to open what the killed one left.
        if round % 3 == 0 || round + 1 == rounds.end {
            let recorded = recorded(&data);
            for (request, answer) in &seen {
                let tag = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
                let kept = recorded.get(request).unwrap_or_else(|| panic!("round {round}: {tag} is missing"));
                assert_eq!(kept, answer, "round {round}: {tag}");
            }
        }
    }
    for file in ["record.db", "insight.db"] {
        is_sound(&data.join(file));
    }
    for day in std::fs::read_dir(data.join("payloads")).expect("readable").flatten() {
        if day.path().extension().is_some_and(|e| e == "db") {
            is_sound(&day.path());
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_client_saw_whole_is_recorded_although_the_process_was_killed() {
    let upstream = Upstream::start(echo).await;
    let (mut seen, kills) = (0, kills());
    for first in (0..kills).step_by(KILLS as usize) {
        seen += killed(&upstream.url(), first..kills.min(first + KILLS)).await.len();
        if kills > KILLS {
            println!("{} kills, {seen} answers seen whole, none missing", kills.min(first + KILLS));
        }
    }
    assert!(seen as u64 > kills * 10, "only {seen} answers came whole");
}

/// The events of a long stream, one after the other.
fn event(n: usize) -> String {
    format!("data: {{\"n\":{n},\"text\":\"{}\"}}\n\n", "word ".repeat(scatter(n as u64) as usize % 50))
}

/// An event each tenth of a second, for as long as any test needs; or no answer at all.
fn drip(request: &Request) -> Vec<Piece> {
    if request.head.contains("/v1/never") {
        return vec![Piece::UntilClosed];
    }
    let pieces = (0..100)
        .flat_map(|n| [Piece::Send(chunk(event(n).as_bytes())), Piece::Pause(Duration::from_millis(100))]);
    std::iter::once(Piece::Send(STREAM_HEAD.to_vec())).chain(pieces).collect()
}

/// Reads a stream until it breaks: when each event was there.
async fn follow(proxy: String, request: Vec<u8>) -> Vec<Instant> {
    let mut connection = Connection::open(&proxy).await;
    connection.post("/v1/streamed", "", &request).await;
    let mut came = Vec::new();
    loop {
        while String::from_utf8_lossy(connection.so_far()).contains(&event(came.len())) {
            came.push(Instant::now());
        }
        if !connection.more().await {
            return came;
        }
    }
}

/// Everything recorded.
fn exchanges(data: &Path) -> Vec<Exchange> {
    let store = Store::open(&DataDir::new(data)).expect("the database opens");
    remora::capture::settle(store.dir(), PATIENCE).expect("the journal is settled");
    let mut all = Vec::new();
    let mut after = 0;
    while let Some((seq, exchange)) = store.exchange_after(after).expect("the record can be read") {
        after = seq;
        all.push(exchange);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_is_recorded_as_interrupted_with_all_but_its_last_two_seconds() {
    let upstream = Upstream::start(drip).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let rounds = (kills() / 50).clamp(2, 20);
    for round in 0..rounds {
        let mut process = Process::start(&upstream.url(), &data, scratch.path()).await;
        let request = |n: usize| format!("{{\"tag\":\"{round}-{n}\"}}").into_bytes();
        let streams: Vec<_> =
            (0..4).map(|n| tokio::spawn(follow(process.proxy.clone(), request(n)))).collect();
        let mut silent = Connection::open(&process.proxy).await;
        silent.post("/v1/never", "", &request(10)).await;
        let mut half = Connection::open(&process.proxy).await;
        half.send(b"POST /v1/never HTTP/1.1\r\nHost: remora\r\nContent-Length: 1000\r\n\r\nonly this").await;
        let asked = Instant::now();
        let moment = asked + LOSS + Duration::from_millis(400 + scatter(round) % 2500);
        until("the moment", || (Instant::now() >= moment).then_some(())).await;
        process.kill();
        let killed = Instant::now();

        let all = exchanges(&data);
        let of = |body: &[u8]| {
            let mut found = all.iter().filter(|e| e.request_body.bytes == body);
            let one = found.next().unwrap_or_else(|| panic!("{} is missing", String::from_utf8_lossy(body)));
            assert!(found.next().is_none(), "recorded twice");
            assert_eq!(one.ended, Ended::Interrupted);
            one
        };
        let sent: String = (0..100).map(event).collect();
        for (n, stream) in streams.into_iter().enumerate() {
            let came = stream.await.expect("a client ends by itself");
            let safe = came.iter().filter(|at| **at + LOSS <= killed).count();
            assert!(safe > 0, "the stream had begun");
            let kept = &of(&request(n)).response.as_ref().expect("it had begun").body;
            assert!(sent.as_bytes().starts_with(&kept.bytes), "what passed, from its beginning");
            let due: usize = (0..safe).map(|n| event(n).len()).sum();
            assert!(
                kept.bytes.len() >= due,
                "round {round}: {} bytes of {due} that were delivered two seconds before",
                kept.bytes.len()
            );
        }
        let unanswered = of(&request(10));
        assert!(unanswered.response.is_none() && !unanswered.request_body.truncated);
        // Each round leaves one of these; the last is this one's.
        let halves = all.iter().filter(|e| e.request_body.bytes.as_ref() == b"only this");
        assert!(halves.clone().all(|e| e.ended == Ended::Interrupted && e.request_body.truncated));
        assert_eq!(halves.count() as u64, round + 1);
    }
}
