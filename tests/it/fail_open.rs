//! Whatever the disk does, traffic flows as before, and what is not recorded is counted: sent = recorded + lost.
//!
//! The real binary, on a disk that fails as it is told ([`Disk`]). `REMORA_TEST_LONG` set: with as many requests as fill the
//! recorder's queue, and a database that is locked for longer than anybody waits for it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::{
    Connection, Disk, Launch, Process, Upstream, answer_to, echo, is_sound, question, recorded, until,
};

const CLIENTS: usize = 4;
/// As shipped.
const ACK_TIMEOUT: Duration = Duration::from_millis(250);

/// A process under traffic, whose disk is about to fail.
struct Drill {
    _upstream: Upstream,
    _scratch: tempfile::TempDir,
    disk: Disk,
    data: PathBuf,
    process: Process,
    clients: Vec<Connection>,
    sent: u64,
}

fn long() -> bool {
    std::env::var("REMORA_TEST_LONG").is_ok()
}

impl Drill {
    /// With the settings of `capture:`.
    async fn start(capture: &str) -> Self {
        let upstream = Upstream::start(echo).await;
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let (disk, data) = (Disk::new(scratch.path()), scratch.path().join("data"));
        let launch = Launch::new(&data, scratch.path()).with(&["--upstream", &upstream.url()]);
        launch.configure(&format!("capture:\n  {capture}\n"));
        let process = disk.below(launch).start().await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Connection::open(&process.proxy).await);
        }
        let mut drill =
            Self { _upstream: upstream, _scratch: scratch, disk, data, process, clients, sent: 0 };
        drill.traffic(5).await;
        assert_eq!(drill.lost().await, 0);
        drill
    }

    /// So many requests of each client, all clients at once; every answer is compared. How long they took, the shortest
    /// first.
    async fn traffic(&mut self, each: u64) -> Vec<Duration> {
        let from = self.sent;
        let play = |(client, mut connection): (u64, Connection)| async move {
            let mut took = Vec::new();
            for n in from + client * each..from + (client + 1) * each {
                let (path, request) = question("fail", n);
                let begun = Instant::now();
                let answer = connection.try_post(path, &request).await.expect("a whole answer");
                took.push(begun.elapsed());
                assert_eq!((answer.status, answer.body), (200, answer_to(&request)));
            }
            (connection, took)
        };
        let all: Vec<_> =
            (0..).zip(self.clients.drain(..)).map(|client| tokio::spawn(play(client))).collect();
        let mut took = Vec::new();
        for one in all {
            let (connection, some) = one.await.expect("no client fails");
            self.clients.push(connection);
            took.extend(some);
        }
        self.sent += each * CLIENTS as u64;
        took.sort();
        took
    }

    /// The sum of the lines of a metric.
    async fn metric(&self, name: &str) -> u64 {
        let mut admin = Connection::open(&self.process.admin).await;
        admin.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
        let page = String::from_utf8(admin.answer().await.body).expect("metrics are text");
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|r| r.starts_with([' ', '{']));
        let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
        page.lines().filter(of_name).map(|l| value(l).expect("a number ends the line") as u64).sum()
    }

    async fn lost(&self) -> u64 {
        self.metric("remora_exchanges_lost_total").await
    }

    /// Everything that was sent is decided: safe, or lost.
    async fn decided(&self) -> (u64, u64) {
        let deadline = Instant::now() + crate::harness::PATIENCE;
        loop {
            let counted = (self.metric("remora_exchanges_recorded_total").await, self.lost().await);
            if counted.0 + counted.1 >= self.sent || Instant::now() > deadline {
                assert_eq!(counted.0 + counted.1, self.sent, "{counted:?}; {}", self.process.messages());
                return counted;
            }
        }
    }

    /// Sends until one more is recorded.
    async fn records_again(&mut self) {
        let deadline = Instant::now() + crate::harness::PATIENCE;
        let (before, _) = self.decided().await;
        while self.decided().await.0 == before {
            assert!(Instant::now() < deadline, "it records no more: {}", self.process.messages());
            self.traffic(1).await;
        }
    }

    /// sent = recorded + lost, each record exact, each database whole; nothing more is lost. Gives how many were lost.
    async fn balance(mut self) -> u64 {
        self.disk.works();
        self.records_again().await;
        let (_, lost) = self.decided().await;
        let after = self.traffic(10).await;
        assert!(after[after.len() / 2] < ACK_TIMEOUT / 2, "still slow: {after:?}");
        assert_eq!(self.counted().await, lost, "losses although the disk works");
        lost
    }

    /// sent = recorded + lost, each record exact, the record whole. Gives how many were lost.
    async fn counted(mut self) -> u64 {
        let (_, lost) = self.decided().await;
        let on_record = recorded(&self.data);
        let said = self.process.messages();
        assert_eq!(on_record.len() as u64 + lost, self.sent, "on record, lost, sent; {said}");
        for (request, answer) in &on_record {
            assert_eq!(answer, &answer_to(request));
        }
        self.process.kill();
        is_sound(&self.data.join("record.db"));
        lost
    }
}

/// Nobody waits: the bound is what a loaded machine takes, far from what they would wait.
fn quick(took: &[Duration]) {
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    assert!(median < ACK_TIMEOUT / 2, "the median is {median:?}");
    assert!(longest < Duration::from_secs(5), "the longest is {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_records_and_no_time_and_each_is_counted() {
    let mut drill = Drill::start("durability: process").await;
    drill.disk.rule("enospc", 0, "/data/");
    quick(&drill.traffic(50).await);
    let (_, lost) = drill.decided().await;
    assert_eq!(lost, 200, "all of them, for nothing can be written");
    assert_eq!(drill.metric("remora_ack_timeouts_total").await, 0, "nobody waits for what is lost");
    assert_eq!(drill.balance().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_full_in_the_middle_of_a_record_keeps_those_before() {
    let mut drill = Drill::start("durability: process").await;
    // Some whole records, and a part of one.
    drill.disk.rule("space", 20_000, "/journal/");
    quick(&drill.traffic(50).await);
    let (kept, lost) = drill.decided().await;
    assert!(lost > 100 && kept > 20 + 3, "{kept} kept, {lost} lost");
    assert_eq!(drill.balance().await, lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_with_errors_costs_records_and_no_time_and_each_is_counted() {
    let mut drill = Drill::start("durability: process").await;
    drill.disk.rule("eio", 0, "/data/");
    quick(&drill.traffic(50).await);
    assert_eq!(drill.decided().await.1, 200);
    assert_eq!(drill.balance().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_writes_lose_nothing() {
    let mut drill = Drill::start("durability: process").await;
    drill.disk.rule("short", 0, "/data/");
    drill.traffic(50).await;
    assert_eq!(drill.balance().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_a_second_for_everything_delays_nobody_after_the_first() {
    for durability in ["process", "power"] {
        let mut drill = Drill::start(&format!("durability: {durability}")).await;
        drill.disk.rule("slow", 1000, "/data/");
        quick(&drill.traffic(50).await);
        let waits = drill.metric("remora_ack_timeouts_total").await;
        assert!((1..=CLIENTS as u64).contains(&waits), "{waits} ends waited in vain: one a client at most");
        drill.disk.works();
        assert_eq!(drill.balance().await, 0, "late, but all of them");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_stopped_stops_nobody_else() {
    let mut drill = Drill::start("durability: process").await;
    drill.disk.rule("block", 0, "/data/");
    quick(&drill.traffic(50).await);
    assert_eq!(drill.lost().await, 0, "the queue takes them");
    let waits = drill.metric("remora_ack_timeouts_total").await;
    assert!((1..=CLIENTS as u64).contains(&waits), "{waits} ends waited in vain: one a client at most");
    if long() {
        quick(&drill.traffic(5000).await);
        assert!(drill.lost().await > 0, "the queue has an end");
    }
    let lost = drill.lost().await;
    assert_eq!(drill.balance().await, lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_synced_is_not_called_safe() {
    let mut drill = Drill::start("durability: power").await;
    drill.disk.rule("fsync", 0, "/data/");
    quick(&drill.traffic(50).await);
    assert_eq!(drill.decided().await.1, 200);
    assert_eq!(drill.balance().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_only_the_database_fails_nothing_is_lost() {
    for kind in ["enospc", "eio"] {
        let mut drill = Drill::start("durability: process").await;
        for pattern in ["record.db", "/payloads/"] {
            drill.disk.rule(kind, 0, pattern);
            quick(&drill.traffic(20).await);
            let deadline = Instant::now() + crate::harness::PATIENCE;
            while drill.metric("remora_settle_failures_total").await == 0 {
                assert!(Instant::now() < deadline, "the settler did not notice");
            }
        }
        assert_eq!(drill.balance().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_another_process_locks_for_long_costs_nothing() {
    let mut drill = Drill::start("durability: process").await;
    let db = rusqlite::Connection::open(drill.data.join("record.db")).expect("it opens");
    db.execute_batch("BEGIN IMMEDIATE").expect("the lock is taken");
    let until = Instant::now() + Duration::from_secs(if long() { 45 } else { 2 });
    while Instant::now() < until {
        quick(&drill.traffic(10).await);
    }
    assert_eq!(drill.metric("remora_ack_timeouts_total").await, 0);
    db.execute_batch("ROLLBACK").expect("the lock is given back");
    assert_eq!(drill.balance().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_may_not_grow_is_full_and_its_losses_are_counted() {
    let mut drill = Drill::start("journal: 100KB").await;
    let db = rusqlite::Connection::open(drill.data.join("record.db")).expect("it opens");
    db.execute_batch("BEGIN IMMEDIATE").expect("the lock is taken");
    quick(&drill.traffic(100).await);
    let (kept, lost) = drill.decided().await;
    assert!(lost > 100 && kept > 20, "{kept} kept, {lost} lost");
    db.execute_batch("ROLLBACK").expect("the lock is given back");
    // Until it is moved it stays full, or nearly so.
    drill.records_again().await;
    assert!(drill.counted().await >= lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_deleted_or_moved_under_the_process_is_made_again_with_what_was_in_it() {
    for moved in [false, true] {
        let mut drill = Drill::start("durability: process").await;
        // So that some of it is in no database yet.
        let db = rusqlite::Connection::open(drill.data.join("record.db")).expect("it opens");
        db.execute_batch("BEGIN IMMEDIATE").expect("the lock is taken");
        quick(&drill.traffic(10).await);
        let journal = drill.data.join("journal");
        if moved {
            std::fs::rename(&journal, drill.data.join("elsewhere")).expect("moved");
        } else {
            std::fs::remove_dir_all(&journal).expect("deleted");
        }
        quick(&drill.traffic(10).await);
        until("the journal to be made again", || journal.exists().then_some(())).await;
        quick(&drill.traffic(10).await);
        db.execute_batch("ROLLBACK").expect("the lock is given back");
        assert_eq!(drill.balance().await, 0, "moved: {moved}");
    }
}
