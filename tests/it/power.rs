//! `durability: power`: what was acknowledged survives that the machine stops between any two blocks.
//!
//! `REMORA_TEST_LONG` set: with the journal cut at every byte, not only around the entries' ends and here and there.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use remora::capture;
use remora::store::{DataDir, Store};

use crate::harness::{
    Connection, PATIENCE, Process, Upstream, answer_to, echo, is_sound, question, recorded, until,
};

const EXCHANGES: u64 = 4;

/// A data directory whose process was killed while everything was in the journal and nothing in the record; with the
/// requests in order.
struct Left {
    scratch: tempfile::TempDir,
    requests: Vec<Vec<u8>>,
}

impl Left {
    async fn behind() -> Self {
        let upstream = Upstream::start(echo).await;
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let data = scratch.path().join("data");
        let launch =
            crate::harness::Launch::new(&data, scratch.path()).with(&["--upstream", &upstream.url()]);
        launch.configure("capture:\n  durability: power\n  ack_timeout: 20s\n");
        let mut process = launch.start().await;
        let db = rusqlite::Connection::open(data.join("record.db")).expect("it opens");
        db.execute_batch("BEGIN IMMEDIATE").expect("the lock is taken");
        let mut connection = Connection::open(&process.proxy).await;
        let mut requests = Vec::new();
        for n in 0..EXCHANGES {
            let (path, _) = question("", n);
            let request =
                format!("{{\"tag\":{n},\"more\":\"{}\"}}", "y".repeat(n as usize * 50)).into_bytes();
            connection.try_post(path, &request).await.expect("a whole answer");
            requests.push(request);
        }
        process.kill();
        db.execute_batch("ROLLBACK").expect("the lock is given back");
        Self { scratch, requests }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// The only segment, below the data directory.
    fn segment(&self) -> PathBuf {
        let journal = self.data().join("journal");
        let mut homes = std::fs::read_dir(&journal).expect("readable").flatten().map(|e| e.path());
        let home = homes.find(|p| p.is_dir()).expect("one process wrote");
        home.join("00000001.log").strip_prefix(self.data()).expect("it is below").to_owned()
    }

    /// A copy of it, in memory where the system has such files: what is tested is the order of things, not this disk.
    fn copy(&self) -> tempfile::TempDir {
        let memory = Path::new("/dev/shm");
        let copy = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let copy = copy.expect("a temporary directory");
        copy_all(&self.data(), copy.path());
        copy
    }
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("readable").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else if entry.path().is_file() {
            // A socket has nothing to copy.
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Where the entries of a segment end: its head has 16 bytes, an entry's as many, with the length of the rest at 8.
fn ends(segment: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 16;
    while let Some(length) = segment.get(at + 8..at + 12) {
        at += 16 + u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        ends.push(at);
    }
    assert_eq!(at, segment.len());
    ends
}

/// The first requests, with their answers.
fn first(left: &Left, n: usize) -> HashMap<Vec<u8>, Vec<u8>> {
    left.requests[..n].iter().map(|r| (r.clone(), answer_to(r))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_torn_at_any_byte_gives_every_whole_entry_and_never_stops_the_start() {
    let left = Left::behind().await;
    let relative = left.segment();
    let whole = std::fs::read(left.data().join(&relative)).expect("readable");
    let ends = ends(&whole);
    assert_eq!(ends.len() as u64, EXCHANGES);
    let every = std::env::var("REMORA_TEST_LONG").is_ok();
    let near = |at: usize| [16].iter().chain(&ends).any(|end| at.abs_diff(*end) <= 1);
    let cuts = (0..=whole.len()).filter(|at| every || near(*at) || at % 211 == 0);
    for cut in cuts {
        // What a loss of power leaves: the file ends early, or the blocks after it were never written.
        for zeros in [false, true] {
            // Of the first bytes a part was never written without the others: a sector is written whole.
            if zeros && (1..8).contains(&cut) {
                continue;
            }
            let copy = left.copy();
            let mut torn = whole[..cut].to_vec();
            if zeros {
                torn.resize(whole.len(), 0);
            }
            std::fs::write(copy.path().join(&relative), torn).expect("written");
            let due = first(&left, ends.iter().filter(|end| **end <= cut).count());
            assert_eq!(recorded(copy.path()), due, "cut at {cut}, zeros: {zeros}");
            let rest: Vec<_> =
                std::fs::read_dir(copy.path().join("journal")).expect("readable").flatten().collect();
            assert_eq!(rest.len(), 1, "only the lock is left: {rest:?}");
            // Once more changes nothing.
            assert_eq!(recorded(copy.path()), due, "cut at {cut}, zeros: {zeros}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_starts_on_a_torn_journal_and_records_on() {
    let left = Left::behind().await;
    let upstream = Upstream::start(echo).await;
    let relative = left.segment();
    let whole = std::fs::read(left.data().join(&relative)).expect("readable");
    let ends = ends(&whole);
    for (cut, zeros) in [(0, true), (20, false), (ends[1] + 30, true), (whole.len() - 1, false)] {
        let copy = left.copy();
        let mut torn = whole[..cut].to_vec();
        if zeros {
            torn.resize(whole.len(), 0);
        }
        std::fs::write(copy.path().join(&relative), torn).expect("written");
        let mut process = Process::start(&upstream.url(), copy.path(), left.scratch.path()).await;
        let mut connection = Connection::open(&process.proxy).await;
        connection.try_post("/v1/plain", b"{\"after\":1}").await.expect("a whole answer");
        let mut due = first(&left, ends.iter().filter(|end| **end <= cut).count());
        due.insert(b"{\"after\":1}".to_vec(), answer_to(b"{\"after\":1}"));
        until("all to be recorded", || (recorded(copy.path()) == due).then_some(())).await;
        process.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_and_deletions_that_the_power_undid_are_done_again_without_harm() {
    let left = Left::behind().await;
    let copy = left.copy();
    let due = first(&left, left.requests.len());
    let journal = copy.path().join("journal");
    assert_eq!(recorded(copy.path()), due);
    let rows = |dir: &Path| {
        let store = Store::open(&DataDir::new(dir)).expect("it opens");
        let mut rows = Vec::new();
        let mut after = 0;
        while let Some((seq, exchange)) = store.exchange_after(after).expect("readable") {
            after = seq;
            rows.push((seq, exchange.id));
        }
        rows
    };
    let before = rows(copy.path());
    let home = left.segment().parent().expect("its directory").to_owned();
    let whole = std::fs::metadata(left.data().join(left.segment())).expect("it is there").len();
    let note = |offset: u64| [1u32.to_le_bytes().as_slice(), &offset.to_le_bytes()].concat();
    // The journal is there again, and its note is gone, empty, of zeros, or old, or of the end.
    for settled in [None, Some(vec![]), Some(vec![0; 12]), Some(note(16)), Some(note(whole))] {
        std::fs::remove_dir_all(&journal).expect("removed");
        copy_all(&left.data().join("journal"), &journal);
        if let Some(settled) = settled {
            std::fs::write(copy.path().join(&home).join("settled"), settled).expect("written");
        }
        capture::settle(&DataDir::new(copy.path()), PATIENCE).expect("settled");
        assert_eq!(rows(copy.path()), before);
        assert_eq!(recorded(copy.path()), due);
    }
    is_sound(&copy.path().join("record.db"));
}

/// In the order of what was done: nothing is forgotten in the journal before it is synced in the databases.
#[cfg(target_os = "linux")]
fn forgotten_too_soon(calls: &[(String, String)]) -> (usize, Vec<String>) {
    let mut unsynced = BTreeSet::new();
    let (mut forgot, mut wrong) = (0, Vec::new());
    for (call, path) in calls {
        let name = path.rsplit('/').next().unwrap_or_default();
        let forgets = call == "write" && name == "settled" || call == "unlink" && name.ends_with(".log");
        match call.as_str() {
            "write" if name.ends_with("-wal") => {
                unsynced.insert(path);
            }
            "sync" => {
                unsynced.remove(path);
            }
            _ => {}
        }
        if forgets {
            forgot += 1;
            wrong.extend(unsynced.iter().map(|wal| format!("{call} {name} before {wal} was synced")));
        }
    }
    (forgot, wrong)
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_forgets_nothing_that_is_not_synced_in_the_record() {
    use crate::harness::{Disk, Launch};

    let upstream = Upstream::start(echo).await;
    // The journal of a process that synced, moved by one that would not; and what that one appends itself.
    for (before, now) in [("power", "power"), ("power", "process"), ("process", "process")] {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let data = scratch.path().join("data");
        let disk = Disk::new(scratch.path());
        let launch = |durability: &str| {
            let launch = Launch::new(&data, scratch.path()).with(&["--upstream", &upstream.url()]);
            launch.configure(&format!("capture:\n  durability: {durability}\n  ack_timeout: 20s\n"));
            launch
        };
        let mut process = launch(before).start().await;
        let db = rusqlite::Connection::open(data.join("record.db")).expect("it opens");
        db.execute_batch("BEGIN IMMEDIATE").expect("the lock is taken");
        let mut connection = Connection::open(&process.proxy).await;
        for n in 0..20 {
            let (path, request) = question("early", n);
            connection.try_post(path, &request).await.expect("a whole answer");
        }
        process.kill();
        db.execute_batch("ROLLBACK").expect("the lock is given back");
        drop(db);

        disk.rule("trace", 0, "/data/");
        let mut process = disk.below(launch(now)).start().await;
        let journal = data.join("journal");
        let homes =
            || std::fs::read_dir(&journal).expect("readable").flatten().filter(|e| e.path().is_dir()).count();
        until("the old journal to be moved", || (homes() == 1).then_some(())).await;
        process.kill();
        let calls = disk.traced();
        let (forgot, wrong) = forgotten_too_soon(&calls);
        assert!(forgot >= 2, "a note and a deletion: {calls:?}");
        // The last shows that the test sees what it looks for.
        assert_eq!(wrong.is_empty(), before == "power", "{before}, {now}: {wrong:?}");
        assert_eq!(recorded(&data).len(), 20);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_after_its_record_is_synced() {
    use crate::harness::{Disk, Launch};

    let upstream = Upstream::start(echo).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let disk = Disk::new(scratch.path());
    let launch = Launch::new(&data, scratch.path()).with(&["--upstream", &upstream.url()]);
    launch.configure("capture:\n  durability: power\n  ack_timeout: 20s\n");
    let process = disk.below(launch).start().await;
    let mut connection = Connection::open(&process.proxy).await;
    disk.rule("trace", 0, ".log");
    for n in 0..10 {
        let (path, request) = question("synced", n);
        connection.try_post(path, &request).await.expect("a whole answer");
        let calls: Vec<String> = disk.traced().into_iter().map(|(call, _)| call).collect();
        assert_eq!(calls, ["write", "sync"].repeat(n as usize + 1), "at the end of answer {n}");
    }
}
