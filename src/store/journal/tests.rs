use std::fs;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::config::Durability;
use crate::model::{Body, Ended, Exchange, ExchangeId, Headers, Micros, Response, Scope, Timing};
use crate::store::DataDir;

fn entry(n: usize, length: usize) -> Entry {
    let line = |length: usize| Body {
        bytes: Bytes::new(),
        length: length as u64,
        sha256: [0; 32],
        truncated: false,
    };
    let exchange = Exchange {
        id: ExchangeId::new(),
        scope: Scope::default(),
        connection: n as i64,
        client_key: None,
        method: "POST".into(),
        target: format!("/v1/{n}"),
        upstream: "http://up".into(),
        request_headers: Headers::default(),
        request_body: line(length),
        response: Some(Response { status: 200, headers: Headers::default(), body: line(2) }),
        timing: Timing { started: Micros(1), head: Some(Micros(2)), first_byte: None, ended: Micros(3) },
        ended: Ended::Complete,
        detail: Some("why".into()),
    };
    let request = vec![Bytes::from(vec![b'q'; length / 2]), Bytes::from(vec![b'r'; length - length / 2])];
    let mut request_headers = HeaderLines::default();
    request_headers.push("accept", |value| value.push_str("*/*"));
    request_headers.push("x-empty", |_| ());
    request_headers.push("x-last", |value| value.push('ö'));
    let response_headers = HeaderLines::default();
    Entry { exchange, request_headers, response_headers, request, response: vec![Bytes::from_static(b"{}")] }
}

struct World {
    _dir: TempDir,
    journal: Journal,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let journal = Journal::of(&DataDir::new(dir.path()));
        Self { _dir: dir, journal }
    }

    fn writer(&self) -> JournalWriter {
        self.journal.writer(Durability::Power).expect("the journal begins")
    }

    /// Everything in the segments of the only writer, which is gone.
    fn read(&self) -> Vec<Exchange> {
        let home = self.journal.writers().expect("readable").remove(0);
        let mut all = Vec::new();
        for segment in home.segments().expect("readable") {
            let mut offset = 0;
            loop {
                let batch = segment.read(offset, true).expect("readable");
                if batch.exchanges.is_empty() {
                    break;
                }
                offset = batch.offset;
                all.extend(batch.exchanges);
            }
        }
        all
    }
}

fn targets(exchanges: &[Exchange]) -> Vec<&str> {
    exchanges.iter().map(|e| e.target.as_str()).collect()
}

#[test]
fn what_is_appended_comes_back_whole() {
    let world = World::new();
    let mut writer = world.writer();
    let (a, b) = (entry(1, 3000), entry(2, 0));
    let ids = [a.exchange.id, b.exchange.id];
    let bytes = writer.append([a, b].into_iter()).expect("appended");
    assert_eq!(writer.position().offset, Segment::BEGINNING + bytes);
    drop(writer);
    let read = world.read();
    assert_eq!([read[0].id, read[1].id], ids);
    let whole = Body::whole(Bytes::from([vec![b'q'; 1500], vec![b'r'; 1500]].concat()));
    assert_eq!(read[0].request_body, whole, "with the hash of its bytes");
    let response = read[0].response.as_ref().expect("there is one");
    assert_eq!((response.status, response.body.bytes.as_ref()), (200, &b"{}"[..]));
    assert_eq!((read[0].detail.as_deref(), read[0].ended), (Some("why"), Ended::Complete));
    let lines = [("accept", "*/*"), ("x-empty", ""), ("x-last", "ö")];
    assert_eq!(read[0].request_headers.0, lines.map(|(n, v)| (n.to_owned(), v.to_owned())));
}

#[test]
fn a_tail_torn_at_any_byte_costs_the_torn_entry_only() {
    let world = World::new();
    let mut writer = world.writer();
    let mut ends = vec![Segment::BEGINNING];
    for n in 0..3 {
        writer.append([entry(n, 40)].into_iter()).expect("appended");
        ends.push(writer.position().offset);
    }
    drop(writer);
    let segment = world.journal.writers().expect("readable")[0].segments().expect("readable").remove(0);
    let whole = fs::read(&segment.path).expect("readable");
    for length in 0..=whole.len() {
        // What a loss of power leaves: the file ends early, or the blocks after it were never written.
        for tail in [Vec::new(), vec![0; whole.len() - length]] {
            fs::write(&segment.path, [&whole[..length], &tail].concat()).expect("written");
            // Below the head, even of what kind the file is is not known: told, where it is not nothing but zeros.
            if (1..8).contains(&length) && !tail.is_empty() {
                assert!(segment.read(0, true).is_err());
                continue;
            }
            let expected = ends[1..].iter().filter(|end| **end <= length as u64).count();
            assert_eq!(world.read().len(), expected, "torn at {length} of {}", whole.len());
        }
    }
}

#[test]
fn damage_in_the_middle_costs_the_damaged_entry_only() {
    let world = World::new();
    let mut writer = world.writer();
    let mut ends = vec![Segment::BEGINNING as usize];
    for n in 0..3 {
        writer.append([entry(n, 40)].into_iter()).expect("appended");
        ends.push(writer.position().offset as usize);
    }
    drop(writer);
    let segment = world.journal.writers().expect("readable")[0].segments().expect("readable").remove(0);
    let whole = fs::read(&segment.path).expect("readable");
    for at in ends[1]..ends[2] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&segment.path, damaged).expect("written");
        assert_eq!(targets(&world.read()), ["/v1/0", "/v1/2"], "byte {at}");
        let batch = segment.read(ends[1] as u64, true).expect("readable");
        assert_eq!(batch.damaged, (ends[2] - ends[1]) as u64);
    }
}

#[test]
fn a_body_that_holds_an_entry_is_no_entry() {
    let world = World::new();
    let mut other = world.writer();
    other.append([entry(66, 10)].into_iter()).expect("appended");
    let forged = fs::read(other.home().segments().expect("readable")[0].path.clone()).expect("readable");
    let home = other.home().clone();
    drop(other);
    home.clear().expect("cleared");

    let mut writer = world.writer();
    let mut bait = entry(1, 0);
    bait.request = vec![Bytes::from(forged[Segment::BEGINNING as usize..].to_vec())];
    bait.exchange.request_body.length = bait.request[0].len() as u64;
    writer.append([bait].into_iter()).expect("appended");
    drop(writer);
    let segment = world.journal.writers().expect("readable")[0].segments().expect("readable").remove(0);
    let whole = fs::read(&segment.path).expect("readable");
    fs::write(&segment.path, &whole[..whole.len() - 1]).expect("written");
    assert!(world.read().is_empty(), "the torn entry's body was taken for an entry");
}

#[test]
fn what_is_just_being_written_is_waited_for() {
    let world = World::new();
    let mut writer = world.writer();
    writer.append([entry(0, 40)].into_iter()).expect("appended");
    let first = writer.position().offset;
    writer.append([entry(1, 40)].into_iter()).expect("appended");
    let segment = writer.home().segments().expect("readable").remove(0);
    let whole = fs::read(&segment.path).expect("readable");
    for length in first as usize..whole.len() {
        fs::write(&segment.path, &whole[..length]).expect("written");
        let batch = segment.read(0, false).expect("readable");
        assert_eq!((batch.exchanges.len(), batch.offset, batch.damaged), (1, first, 0));
    }
}

#[test]
fn segments_are_begun_anew_and_read_in_order() {
    let world = World::new();
    let mut writer = world.writer();
    for n in 0..5 {
        writer.append([entry(n, 6 << 20)].into_iter()).expect("appended");
    }
    assert!(writer.position().segment > 1);
    drop(writer);
    assert_eq!(targets(&world.read()), ["/v1/0", "/v1/1", "/v1/2", "/v1/3", "/v1/4"]);
}

#[test]
fn what_was_under_way_is_put_together_from_what_was_saved() {
    let world = World::new();
    let mut writer = world.writer();
    let mut part = entry(7, 4);
    part.exchange.ended = Ended::Interrupted;
    part.exchange.response = None;
    part.response.clear();
    writer.checkpoint(&part, true).expect("saved");
    let id = part.exchange.id;
    let mut more = entry(7, 0);
    more.exchange.id = id;
    more.exchange.ended = Ended::Interrupted;
    more.exchange.request_body.length = 4;
    writer.checkpoint(&more, false).expect("saved");
    // The third was just being saved.
    let path = writer.home().path().join("open").join(id.to_string());
    let saved = fs::read(&path).expect("readable");
    fs::write(&path, [&saved[..], &saved[..30]].concat()).expect("written");

    let ended = entry(8, 4);
    writer.checkpoint(&ended, true).expect("saved");
    writer.end_checkpoints(ended.exchange.id);
    let home = writer.home().clone();
    assert!(!home.is_left().expect("tried"));
    drop(writer);
    assert!(home.is_left().expect("tried"));
    let open = home.open_exchanges().expect("readable");
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].id, open[0].ended), (id, Ended::Interrupted));
    assert_eq!(open[0].request_body, Body::whole(Bytes::from_static(b"qqrr")));
    assert_eq!(open[0].response.as_ref().map(|r| r.body.bytes.clone()), Some(Bytes::from_static(b"{}")));
}

#[test]
fn where_saving_fails_nothing_is_kept_that_has_a_hole() {
    let world = World::new();
    let mut writer = world.writer();
    let part = entry(1, 4);
    writer.checkpoint(&part, true).expect("saved");
    let open = writer.home().path().join("open").join(part.exchange.id.to_string());
    fs::remove_file(&open).expect("somebody deletes it");
    assert!(writer.checkpoint(&part, false).is_err(), "what came before is missing");
    assert!(!open.exists());
    writer.checkpoint(&part, true).expect("it begins anew");
    // One that is there is not the first's: begun anew once more.
    assert!(writer.checkpoint(&part, true).is_err() && !open.exists());
}

#[test]
fn a_journal_that_was_deleted_is_made_again_with_what_was_in_its_open_segment() {
    for what in ["all", "home", "segment", "lock"] {
        let world = World::new();
        let mut writer = world.writer();
        writer.append([entry(0, 40)].into_iter()).expect("appended");
        writer.tend().expect("nothing is missing");
        let home = writer.home().clone();
        assert_eq!(writer.position().segment, 1);
        match what {
            "all" => fs::remove_dir_all(home.path().parent().expect("the journal")),
            "home" => fs::remove_dir_all(home.path()),
            "segment" => fs::remove_file(home.path().join("00000001.log")),
            _ => fs::remove_file(home.path().join("lock")),
        }
        .expect("deleted");
        // It goes into a file that nobody can find, and is not lost.
        writer.append([entry(1, 40)].into_iter()).expect("appended");
        writer.tend().expect("made again");
        assert_eq!(writer.position().segment, 2, "{what}");
        writer.append([entry(2, 40)].into_iter()).expect("appended");
        assert!(!home.is_left().expect("tried"), "{what}: its lock is held");
        assert!(home.survives_power(), "{what}");
        drop(writer);
        assert!(home.is_left().expect("tried"));
        let mut read = world.read();
        // Where only the lock was gone the first segment is still there, too.
        read.dedup_by_key(|e| e.id);
        let mut seen = targets(&read);
        seen.dedup();
        assert!(seen.ends_with(&["/v1/0", "/v1/1", "/v1/2"]), "{what}: {seen:?}");
    }
}

#[test]
fn one_process_settles_at_a_time() {
    let world = World::new();
    let first = world.journal.lock().expect("tried");
    assert!(first.is_some() && world.journal.lock().expect("tried").is_none());
    drop(first);
    assert!(world.journal.lock().expect("tried").is_some());
}

#[test]
fn it_is_known_what_is_not_settled_yet() {
    let world = World::new();
    let mut writer = world.writer();
    let home = writer.home().clone();
    assert!(
        world.journal.reached(&world.journal.ends().expect("readable")).expect("readable"),
        "nothing yet"
    );
    let bytes = writer.append([entry(0, 40)].into_iter()).expect("appended");
    let ends = world.journal.ends().expect("readable");
    assert_eq!(home.unsettled(Position::END).expect("readable"), bytes);
    assert!(!world.journal.reached(&ends).expect("readable"));
    home.note_settled(writer.position()).expect("noted");
    writer.append([entry(1, 40)].into_iter()).expect("appended");
    assert!(world.journal.reached(&ends).expect("readable"), "what came later does not count");
    assert!(home.unsettled(Position::END).expect("readable") > 0);
}

#[cfg(unix)]
#[test]
fn others_cannot_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let mut writer = world.writer();
    let part = entry(1, 4);
    writer.checkpoint(&part, true).expect("saved");
    let open = writer.home().path().join("open").join(part.exchange.id.to_string());
    let segment = writer.home().segments().expect("readable").remove(0).path;
    for path in [open, segment] {
        let mode = fs::metadata(path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
