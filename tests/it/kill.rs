//! A record that a client waited for survives the death of the process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use remora::store::{DataDir, Store};

use crate::harness::{
    Connection, LAST_CHUNK, PATIENCE, Piece, Process, STREAM_HEAD, Upstream, chunk, completion, plain, until,
};

const KILLS: u64 = 15;
const CLIENTS: usize = 8;

/// Request and answer, as a client saw them.
type Seen = (Vec<u8>, Vec<u8>);

/// Numbers that look random and are the same in every run (splitmix64).
fn scatter(n: u64) -> u64 {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Asks until the process is gone.
async fn ask(proxy: String, name: String, answered: Arc<AtomicUsize>) -> Vec<Seen> {
    let mut seen = Vec::new();
    let Some(mut connection) = Connection::try_open(&proxy).await else { return seen };
    for n in 0u64.. {
        // Of many lengths: some are kept packed, some as they are.
        let padding = "x".repeat((scatter(n) % 3000) as usize);
        let request =
            format!("{{\"model\":\"m\",\"tag\":\"{name}-{n}\",\"padding\":\"{padding}\"}}").into_bytes();
        let path = if n % 2 == 0 { "/v1/plain" } else { "/v1/streamed" };
        let Some(answer) = connection.try_post(path, &request).await else { break };
        seen.push((request, answer.body));
        answered.fetch_add(1, Ordering::SeqCst);
    }
    seen
}

/// Every answer holds its request, so that none can be taken for another.
fn script(request: &crate::harness::Request) -> Vec<Piece> {
    let text = String::from_utf8_lossy(&request.body).into_owned();
    let answer = completion("resp", &text);
    if request.head.contains("/v1/plain") {
        return vec![Piece::Send(plain("200 OK", "", &answer))];
    }
    let half = answer.len() / 2;
    vec![
        Piece::Send(STREAM_HEAD.to_vec()),
        Piece::Send(chunk(&answer[..half])),
        Piece::Send([chunk(&answer[half..]), LAST_CHUNK.to_vec()].concat()),
    ]
}

/// What is recorded, by request.
fn recorded(data: &Path) -> HashMap<Vec<u8>, Vec<u8>> {
    let store = Store::open(&DataDir::new(data)).expect("the database opens");
    remora::capture::settle(store.dir(), PATIENCE).expect("the journal is settled");
    let mut found = HashMap::new();
    let mut after = 0;
    while let Some((seq, exchange)) = store.exchange_after(after).expect("the record can be read") {
        after = seq;
        let answer = exchange.response.map(|r| r.body.bytes.to_vec()).unwrap_or_default();
        found.insert(exchange.request_body.bytes.to_vec(), answer);
    }
    found
}

fn is_sound(path: &Path) {
    let db = rusqlite::Connection::open(path).expect("it opens");
    let said: String = db.pragma_query_value(None, "integrity_check", |r| r.get(0)).expect("it is checked");
    assert_eq!(said, "ok", "{}", path.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_client_saw_whole_is_recorded_although_the_process_was_killed() {
    let upstream = Upstream::start(script).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let mut seen: Vec<Seen> = Vec::new();
    for round in 0..KILLS {
        let mut process = Process::start(&upstream.url(), &data, scratch.path()).await;
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
        if round % 3 == 0 || round + 1 == KILLS {
            let recorded = recorded(&data);
            for (request, answer) in &seen {
                let tag = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
                let kept = recorded.get(request).unwrap_or_else(|| panic!("round {round}: {tag} is missing"));
                assert_eq!(kept, answer, "round {round}: {tag}");
            }
        }
    }
    assert!(seen.len() > 15 * 10, "only {} answers came whole", seen.len());
    for file in ["record.db", "insight.db"] {
        is_sound(&data.join(file));
    }
    for day in std::fs::read_dir(data.join("payloads")).expect("readable").flatten() {
        if day.path().extension().is_some_and(|e| e == "db") {
            is_sound(&day.path());
        }
    }
}
