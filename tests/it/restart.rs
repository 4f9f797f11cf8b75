//! One process after another on the same listening sockets.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use remora::model::Ended;
use remora::store::{DataDir, Store};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::harness::{
    Answer, Connection, Gate, LAST_CHUNK, Launch, Piece, Process, Request, STREAM_HEAD, Upstream, chunk,
    completion, plain, until,
};

/// A number from the environment, for the long form of a test.
fn scale(name: &str, short: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(short)
}

/// Numbers that look random and are the same in every run (splitmix64).
fn scatter(n: u64) -> u64 {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Clients that run until they are told to stop.
#[derive(Clone)]
struct Load {
    proxy: String,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    /// Takes an answer that must be whole; the request's tag is in it.
    fn took(&self, tag: &str, answer: Option<Answer>) -> bool {
        let answer = answer.unwrap_or_else(|| panic!("{tag} was cut"));
        let text = String::from_utf8_lossy(&answer.body);
        assert!(answer.status == 200 && text.contains(tag), "{tag}: {} {text}", answer.status);
        self.answered.fetch_add(1, Ordering::SeqCst);
        answer.closes
    }

    async fn open(&self, tag: &str) -> Connection {
        Connection::try_open(&self.proxy).await.unwrap_or_else(|| panic!("{tag} was refused"))
    }

    /// As [`patient`](Self::patient), some time later.
    async fn patient_after(self, wait: Duration, name: String, path: &str, silence: u64) -> Vec<String> {
        tokio::time::sleep(wait).await;
        self.patient(name, path, silence).await
    }

    /// Holds a connection, is silent for up to `silence` milliseconds and asks again; a new one only when told so.
    async fn patient(self, name: String, path: &str, silence: u64) -> Vec<String> {
        let mut tags = Vec::new();
        let mut connection = self.open(&name).await;
        while self.goes_on() {
            let tag = format!("{name}-{}-", tags.len());
            let answer = connection.try_post(path, tag.as_bytes()).await;
            if self.took(&tag, answer) {
                connection = self.open(&name).await;
            }
            let silent = scatter(tags.len() as u64 ^ name.len() as u64) % silence.max(1);
            tags.push(tag);
            tokio::time::sleep(Duration::from_millis(silent)).await;
        }
        tags
    }

    /// A connection for each request.
    async fn fresh(self, name: String) -> Vec<String> {
        let mut tags = Vec::new();
        while self.goes_on() {
            let tag = format!("{name}-{}-", tags.len());
            let answer = self.open(&tag).await.try_post("/v1/plain", tag.as_bytes()).await;
            self.took(&tag, answer);
            tags.push(tag);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tags
    }
}

/// Plain answers at once; streams take `span`.
fn script(span: Duration) -> impl Fn(&Request) -> Vec<Piece> {
    const CHUNKS: u32 = 20;
    move |request| {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        if request.head.contains("/v1/plain") {
            return vec![Piece::Send(plain("200 OK", "", &completion("resp", &text)))];
        }
        let mut pieces = vec![Piece::Send(STREAM_HEAD.to_vec())];
        for _ in 0..CHUNKS {
            pieces.push(Piece::Send(chunk(format!("data: {text}\n\n").as_bytes())));
            pieces.push(Piece::Pause(span / CHUNKS));
        }
        pieces.push(Piece::Send(LAST_CHUNK.to_vec()));
        pieces
    }
}

/// How often each request is recorded, and whether as complete.
fn recorded(data: &Path) -> HashMap<String, (usize, bool)> {
    let dir = DataDir::new(data);
    remora::capture::settle(&dir, crate::harness::PATIENCE).expect("the journal is settled");
    let store = Store::open(&dir).expect("the database opens");
    let mut found = HashMap::new();
    let mut after = 0;
    while let Some((seq, exchange)) = store.exchange_after(after).expect("the record can be read") {
        after = seq;
        let tag = String::from_utf8_lossy(&exchange.request_body.bytes).into_owned();
        let (count, complete) = found.entry(tag).or_insert((0, true));
        *count += 1;
        *complete &= exchange.ended == Ended::Complete;
    }
    found
}

/// In the long form, `REMORA_TEST_RESTARTS=200 REMORA_TEST_STREAM=60 REMORA_TEST_STREAMS=24 REMORA_TEST_PAUSE=2`, with
/// lengths of time in seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_refuse_and_cut_nothing_and_everything_is_recorded_once() {
    let restarts = scale("REMORA_TEST_RESTARTS", 5);
    let stream = Duration::from_secs(scale("REMORA_TEST_STREAM", 3));
    let pause = Duration::from_secs(scale("REMORA_TEST_PAUSE", 0));
    let upstream = Upstream::start(script(stream)).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let launch = || Launch::new(&data, scratch.path()).with(&["--upstream", &upstream.url(), "--takeover"]);
    let mut newest = launch().start().await;
    let mut earlier = Vec::new();
    let load = Load { proxy: newest.proxy.clone(), over: Arc::default(), answered: Arc::default() };
    let mut clients = Vec::new();
    for n in 0..4 {
        clients.push(tokio::spawn(load.clone().patient(format!("quick{n}"), "/v1/plain", 20)));
        clients.push(tokio::spawn(load.clone().patient(format!("slow{n}"), "/v1/plain", 1500)));
    }
    let streams = u32::try_from(scale("REMORA_TEST_STREAMS", 4)).expect("a few");
    for n in 0..streams {
        // Not all over the same process.
        let (wait, name) = (stream * n / streams, format!("stream{n}"));
        clients.push(tokio::spawn(load.clone().patient_after(wait, name, "/v1/streamed", 300)));
    }
    clients.push(tokio::spawn(load.clone().fresh("fresh".into())));

    for round in 0..restarts {
        let enough = load.answered.load(Ordering::SeqCst) + 20;
        until("some more answers", || (load.answered.load(Ordering::SeqCst) >= enough).then_some(())).await;
        tokio::time::sleep(pause).await;
        let next = launch().start().await;
        assert_eq!(next.proxy, newest.proxy, "round {round}");
        earlier.push(std::mem::replace(&mut newest, next));
        if pause > Duration::ZERO {
            let before = earlier.len();
            earlier.retain_mut(Process::runs);
            eprintln!(
                "restart {round}: {} answers, {} earlier processes drain, {} have ended",
                load.answered.load(Ordering::SeqCst),
                earlier.len(),
                before - earlier.len()
            );
        }
    }
    load.over.store(true, Ordering::SeqCst);
    let mut sent = Vec::new();
    for client in clients {
        sent.extend(client.await.expect("nothing was refused or cut"));
    }
    // All connections are gone now, so the earlier processes have nothing to wait for.
    for process in &mut earlier {
        process.ended().await;
    }
    newest.signal(Signal::TERM);
    newest.ended().await;
    let recorded = recorded(&data);
    for tag in &sent {
        assert_eq!(recorded.get(tag), Some(&(1, true)), "{tag} is to be recorded once, and as complete");
    }
    assert_eq!(recorded.len(), sent.len());
    eprintln!("{restarts} restarts, {} requests, all answered whole and recorded once", sent.len());
}

fn gated(gate: &Gate) -> Vec<Piece> {
    vec![
        Piece::Send(STREAM_HEAD.to_vec()),
        Piece::Send(chunk(b"data: one\n\n")),
        Piece::Wait(gate.clone()),
        Piece::Send(chunk(b"data: two\n\n")),
        Piece::Send(LAST_CHUNK.to_vec()),
    ]
}

struct World {
    upstream: Upstream,
    gate: Gate,
    scratch: tempfile::TempDir,
}

impl World {
    /// Streams wait for the gate.
    async fn new() -> Self {
        let gate = Gate::default();
        let waits = gate.clone();
        let answer = plain("200 OK", "", &completion("resp", "hello"));
        let upstream = Upstream::start(move |request| {
            if request.head.contains("/v1/plain") { vec![Piece::Send(answer.clone())] } else { gated(&waits) }
        })
        .await;
        Self { upstream, gate, scratch: tempfile::tempdir().expect("a temporary directory") }
    }

    fn data(&self) -> std::path::PathBuf {
        self.scratch.path().join("data")
    }

    fn launch(&self) -> Launch {
        Launch::new(&self.data(), self.scratch.path()).with(&["--upstream", &self.upstream.url()])
    }

    async fn answers(&self, process: &Process) {
        let mut connection = Connection::open(&process.proxy).await;
        let answer = connection.try_post("/v1/plain", b"{}").await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn a_signal_has_the_process_start_its_successor_itself() {
    let world = World::new().await;
    let mut old = world.launch().start().await;
    let mut stream = Connection::open(&old.proxy).await;
    stream.post("/v1/streamed", "", b"{}").await;
    stream.read_until(b"data: one\n\n").await;
    old.signal(Signal::USR2);
    let mut new = old.successor().await;
    assert_eq!((&new.proxy, &new.admin), (&old.proxy, &old.admin));
    world.answers(&new).await;
    assert!(old.runs(), "its stream is not over");
    world.gate.open();
    let answer = stream.answer().await;
    assert!(answer.whole && answer.body == b"data: one\n\ndata: two\n\n");
    drop(stream);
    old.ended().await;
    // The successor has a successor, too, and is started as the first was.
    new.signal(Signal::USR2);
    let third = new.successor().await;
    new.ended().await;
    world.answers(&third).await;
}

#[tokio::test]
async fn the_program_that_an_upgrade_put_in_place_is_what_succeeds() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new().await;
    let at = |name: &str| world.scratch.path().join(name);
    let (program, upgrade, ran) = (at("remora"), at("upgrade"), at("ran"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_remora"), &program).expect("linked");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {}\nexec {} \"$@\"\n",
        ran.display(),
        env!("CARGO_BIN_EXE_remora")
    );
    std::fs::write(&upgrade, text).expect("written");
    std::fs::set_permissions(&upgrade, std::fs::Permissions::from_mode(0o700)).expect("made a program");
    let named =
        ["sh", "-c", "name=$1; shift 2; exec $name \"$@\"", "sh", program.to_str().expect("a plain path")];
    let mut old = world.launch().by(&named, Stdio::null(), Stdio::null()).start().await;
    std::fs::rename(&upgrade, &program).expect("replaced");
    old.signal(Signal::USR2);
    let new = old.successor().await;
    assert!(std::fs::read_to_string(&ran).expect("it ran").contains("--takeover"));
    old.ended().await;
    world.answers(&new).await;
}

#[tokio::test]
async fn connections_at_rest_are_answered_once_more_and_told_that_it_was_the_last_time() {
    let world = World::new().await;
    let mut old = world.launch().start().await;
    let mut used = Connection::open(&old.proxy).await;
    assert!(!used.try_post("/v1/plain", b"{}").await.expect("an answer").closes);
    // Accepted by the old process, but not yet spoken over.
    let mut silent = Connection::open(&old.proxy).await;
    world.answers(&old).await;
    let new = world.launch().with(&["--takeover"]).start().await;
    for connection in [&mut used, &mut silent] {
        assert!(old.runs());
        let answer = connection.try_post("/v1/plain", b"{}").await.expect("an answer");
        assert!(answer.status == 200 && answer.closes);
    }
    drop((used, silent));
    old.ended().await;
    world.answers(&new).await;
}

#[tokio::test]
async fn a_successor_that_cannot_start_changes_nothing() {
    let world = World::new().await;
    let mut old = world.launch().start().await;
    let wrong = |yaml| world.launch().apart(yaml).with(&["--takeover"]);
    // Before it asks for the sockets, and after.
    assert_eq!(wrong("colour: red").fails().await.code(), Some(2));
    assert_eq!(wrong("upstream:\n  ca: /nowhere.pem").fails().await.code(), Some(1));
    until("the old one to notice", || old.messages().contains("goes on").then_some(())).await;
    assert!(old.runs());
    world.answers(&old).await;
    let new = world.launch().with(&["--takeover"]).start().await;
    world.answers(&new).await;
    old.ended().await;
}

#[tokio::test]
async fn a_successor_that_dies_while_it_takes_over_changes_nothing() {
    let world = World::new().await;
    let mut old = world.launch().start().await;
    let socket = UnixStream::connect(world.data().join("handover.sock")).await.expect("it is there");
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    for (say, hear) in [("remora takeover 1\n", "{\"listeners\""), ("ready\n", "go")] {
        socket.write_all(say.as_bytes()).await.expect("it listens");
        line.clear();
        socket.read_line(&mut line).await.expect("it answers");
        assert!(line.starts_with(hear), "{line}");
    }
    // It accepts nothing now: clients wait in the system's queue, and are not refused.
    let mut client = Connection::open(&old.proxy).await;
    client.post("/v1/plain", "", b"{}").await;
    drop(socket);
    assert_eq!(client.answer().await.status, 200);
    assert!(old.runs() && old.messages().contains("goes on"));
}

#[tokio::test]
async fn the_handover_speaks_with_its_own_user_in_its_own_language_only() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new().await;
    let old = world.launch().start().await;
    let path = world.data().join("handover.sock");
    assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    let mut socket = UnixStream::connect(&path).await.expect("it is there");
    socket.write_all(b"remora takeover 999\n").await.expect("it listens");
    let mut said = String::new();
    socket.read_to_string(&mut said).await.expect("it answers");
    assert!(said.contains("another way"), "{said}");
    world.answers(&old).await;
}

#[tokio::test]
async fn taking_over_from_nobody_is_a_plain_start_and_the_name_is_taken_away_at_the_end() {
    let world = World::new().await;
    let path = world.data().join("handover.sock");
    let mut process = world.launch().with(&["--takeover"]).start().await;
    assert!(path.exists());
    process.kill();
    // What a killed process left is nobody.
    let mut process = world.launch().with(&["--takeover"]).start().await;
    world.answers(&process).await;
    process.signal(Signal::TERM);
    process.ended().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_successor_with_another_address_listens_there() {
    let world = World::new().await;
    let mut old = world.launch().start().await;
    let new = Launch::bare(&world.data(), world.scratch.path())
        .with(&["--upstream", &world.upstream.url(), "--takeover"])
        .with(&["--listen", "127.0.0.2:0", "--admin", "127.0.0.1:0"])
        .start()
        .await;
    assert!(new.proxy.starts_with("http://127.0.0.2:"), "{}", new.proxy);
    assert_eq!(new.admin, old.admin);
    old.ended().await;
    world.answers(&new).await;
}

#[tokio::test]
async fn a_process_that_drains_after_a_handover_can_still_be_stopped() {
    let world = World::new().await;
    let mut old = world.launch().start().await;
    let mut stream = Connection::open(&old.proxy).await;
    stream.post("/v1/streamed", "", b"{}").await;
    stream.read_until(b"data: one\n\n").await;
    let new = world.launch().with(&["--takeover"]).start().await;
    until("it to drain", || old.messages().contains("has taken over").then_some(())).await;
    old.signal(Signal::TERM);
    until("it to hear", || old.messages().contains("stopping").then_some(())).await;
    assert!(old.runs());
    old.signal(Signal::TERM);
    old.ended().await;
    world.answers(&new).await;
}
