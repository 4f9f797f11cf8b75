//! What must be on record, and what is.

use std::collections::HashMap;
use std::path::Path;

use remora::store::{DataDir, Store};

use super::{LAST_CHUNK, PATIENCE, Piece, Request, STREAM_HEAD, chunk, completion, plain};

/// Request and answer, as a client saw them.
pub type Seen = (Vec<u8>, Vec<u8>);

/// Numbers that look random and are the same in every run (splitmix64).
pub fn scatter(n: u64) -> u64 {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Every answer holds its request, so that none can be taken for another; one path's come plain, the others' streamed.
pub fn echo(request: &Request) -> Vec<Piece> {
    let answer = answer_to(&request.body);
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

/// A request of many lengths by `n`: some are kept packed, some as they are. With the path to send it to.
pub fn question(name: &str, n: u64) -> (&'static str, Vec<u8>) {
    let padding = "x".repeat((scatter(n) % 3000) as usize);
    let body = format!("{{\"model\":\"m\",\"tag\":\"{name}-{n}\",\"padding\":\"{padding}\"}}").into_bytes();
    (if n.is_multiple_of(2) { "/v1/plain" } else { "/v1/streamed" }, body)
}

/// What [`echo`] answers.
pub fn answer_to(request: &[u8]) -> Vec<u8> {
    completion("resp", &String::from_utf8_lossy(request))
}

/// What is recorded, by request.
pub fn recorded(data: &Path) -> HashMap<Vec<u8>, Vec<u8>> {
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

/// Whether a database is whole.
pub fn is_sound(path: &Path) {
    let db = rusqlite::Connection::open(path).expect("it opens");
    let said: String = db.pragma_query_value(None, "integrity_check", |r| r.get(0)).expect("it is checked");
    assert_eq!(said, "ok", "{}", path.display());
}
