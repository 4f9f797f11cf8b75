//! Damaged files, missing rights, taken ports: what is said, what goes on, and that nothing is deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Piece, Sidecar, Upstream, completion, plain, remora, until, with_data};

const GARBAGE: &[u8] = b"this is no database, whatever its name says. ";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ask(question: &str) -> Vec<u8> {
    json!({"model": "m", "messages": [{"role": "user", "content": question}]}).to_string().into_bytes()
}

/// A command that is expected to end by itself: what it said, or a failed test where it goes on.
async fn ended(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let went_on = until("the command to end", || {
        let over = std::time::Instant::now() + std::time::Duration::from_secs(1) > deadline;
        child.try_wait().expect("it can be asked").map(|_| false).or(over.then_some(true))
    })
    .await;
    if went_on {
        child.kill().expect("it can be killed");
    }
    let output = child.wait_with_output().expect("it ended");
    assert!(!went_on, "it went on: {}", text(&output.stderr));
    output
}

fn run(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]).arg(data);
    command
}

/// Expects exit code 1 and one line with these words.
fn refused(output: &Output, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("readable").flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path(), std::fs::read(entry.path()).expect("readable"));
        }
    }
    found
}

/// A data directory that was used and left in order, with the answers of `questions`.
async fn used(questions: &[&str]) -> tempfile::TempDir {
    let upstream =
        Upstream::always(plain("200 OK", "", &completion("resp-7", "the parcel is in Lisbon"))).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    for question in questions {
        sidecar.post("/v1/chat/completions", "", &ask(question)).await;
    }
    sidecar.stop().await;
    sidecar.dir
}

/// How much was read from the answer of an exported exchange.
fn choices(row: &Value) -> usize {
    row["assembled"]["choices"].as_array().map_or(0, Vec::len)
}

fn payloads(data: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(data.join("payloads")).expect("readable").flatten().map(|e| e.path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_search_index_is_rebuilt_beside_a_running_proxy() {
    let upstream = Upstream::start(|request| {
        let answer = completion("resp-7", "the parcel is in Lisbon");
        let answer: &[u8] = if request.head.contains("/chat/") { &answer } else { b"{}" };
        vec![Piece::Send(plain("200 OK", "", answer))]
    })
    .await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    sidecar.post("/v1/chat/completions", "", &ask("where is my parcel")).await;
    let config = sidecar.path().join("lexical.yaml");
    std::fs::write(&config, "search:\n  embedder: lexical\n").expect("written");
    let found = || {
        let verb = ["search", "parcel lisbon", "--json", "--config", config.to_str().expect("a plain path")];
        let output = remora(&with_data(&verb, sidecar.path()));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        let said: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
        said["hits"].as_array().expect("hits").len()
    };
    assert_eq!(found(), 1);
    for garbage in [GARBAGE, b""] {
        let index = files(&sidecar.path().join("index"));
        assert!(!index.is_empty());
        for file in index.keys() {
            std::fs::write(file, garbage).expect("written");
        }
        assert_eq!(sidecar.post("/v1/other", "", b"{}").await.status, 200);
        assert_eq!(found(), 1);
    }
}

#[tokio::test]
async fn a_damaged_database_is_named_with_what_to_do_and_nothing_is_deleted() {
    for name in ["record.db", "insight.db"] {
        // All of it, or all but the part that says that it is a database.
        for kept in [0, 100] {
            let dir = used(&["where is my parcel"]).await;
            let path = dir.path().join(name);
            let mut bytes = std::fs::read(&path).expect("it is there");
            let size = bytes.len();
            bytes.truncate(kept);
            bytes.extend(GARBAGE.iter().cycle().take(size - kept));
            std::fs::write(&path, bytes).expect("written");
            let before = files(dir.path());

            let output = remora(&with_data(&["export", "exchanges"], dir.path()));
            refused(&output, &[path.to_str().expect("a plain path"), "damaged"]);
            let way_out = if name == "record.db" { "--data" } else { "move it away" };
            assert!(text(&output.stderr).to_lowercase().contains(way_out), "{}", text(&output.stderr));
            refused(&remora(&with_data(&["export", "trajectories"], dir.path())), &[name, "damaged"]);
            let after = files(dir.path());
            for (file, bytes) in before {
                assert!(after.get(&file) == Some(&bytes), "{name}: {} was changed", file.display());
            }
        }
    }
}

#[tokio::test]
async fn what_is_derived_is_built_again_when_its_damaged_database_was_moved_away() {
    let dir = used(&["where is my parcel"]).await;
    let path = dir.path().join("insight.db");
    std::fs::rename(&path, dir.path().join("insight.db.damaged")).expect("moved");
    let output = remora(&with_data(&["export", "trajectories"], dir.path()));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("resp-7"), "{}", text(&output.stdout));
}

#[tokio::test]
async fn without_a_days_bodies_the_rest_goes_on() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 2] = [
        ("deleted", |file| std::fs::remove_file(file).expect("deleted")),
        ("garbage", |file| std::fs::write(file, GARBAGE.repeat(200)).expect("written")),
    ];
    for (what, damage) in damages {
        for assembled_before in [true, false] {
            let dir = used(&["where is my parcel", "where is my refund"]).await;
            let export = |what| remora(&with_data(&["export", what], dir.path()));
            if assembled_before {
                assert!(export("trajectories").status.success());
            }
            payloads(dir.path()).iter().for_each(|file| damage(file));

            let exchanges = export("exchanges");
            let case = format!("{what}, assembled before: {assembled_before}: {}", text(&exchanges.stderr));
            assert!(exchanges.status.success(), "{case}");
            let rows: Vec<Value> =
                text(&exchanges.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
            assert_eq!(rows.len(), 2, "{case}");
            for row in &rows {
                assert_eq!((&row["status"], choices(row)), (&json!(200), 0), "{case}");
                assert!(row["response_length"].as_u64().is_some_and(|n| n > 0), "{case}");
            }
            let trajectories = export("trajectories");
            assert!(trajectories.status.success(), "{case}: {}", text(&trajectories.stderr));
            let trajectories = text(&trajectories.stdout);
            assert_eq!(trajectories.lines().count(), if assembled_before { 2 } else { 0 }, "{case}");
            for line in trajectories.lines() {
                let row: Value = serde_json::from_str(line).expect("JSON");
                let id = row["trajectory_id"].as_str().expect("an id").to_owned();
                let shown = remora(&with_data(&["show", &id], dir.path()));
                assert!(shown.status.success(), "{case}: {}", text(&shown.stderr));
            }
        }
    }
}

#[tokio::test]
async fn bodies_are_kept_again_after_their_file_was_deleted_beside_a_running_proxy() {
    let upstream = Upstream::always(plain("200 OK", "", &completion("resp-7", "hi"))).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    sidecar.post("/v1/chat/completions", "", &ask("first")).await;
    // Whoever read it before sees the new file, too.
    assert!(!sidecar.exchanges()[0].request_body.bytes.is_empty());
    for file in payloads(sidecar.path()) {
        std::fs::remove_file(file).expect("deleted");
    }
    sidecar.post("/v1/chat/completions", "", &ask("second")).await;
    let read = sidecar.exchanges();
    assert!(read[0].request_body.truncated && read[0].request_body.bytes.is_empty());
    assert_eq!(read[1].request_body.bytes, ask("second"));
    sidecar.stop().await;
    let output = remora(&with_data(&["export", "exchanges"], sidecar.path()));
    let said = text(&output.stdout);
    let rows: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!((choices(&rows[0]), choices(&rows[1])), (0, 1));
}

#[tokio::test]
async fn a_taken_port_gives_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    for option in ["--listen", "--admin"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        let other = if option == "--listen" { "--admin" } else { "--listen" };
        command.args(["run", option, &address, other, "127.0.0.1:0", "--data"]).arg(dir.path());
        refused(&ended(&mut command).await, &[&address, option, "another program"]);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_data_directory_without_the_right_to_write_gives_one_line() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let fresh = tempfile::tempdir().expect("a temporary directory");
    let dir = used(&["where is my parcel"]).await;
    let rights = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the rights are set");
    };
    // To root, rights mean nothing as long as it has its capabilities.
    let root = std::fs::metadata(dir.path()).expect("readable").uid() == 0;
    if root
        && !Command::new("setpriv").args(["--bounding-set=-all", "true"]).status().is_ok_and(|s| s.success())
    {
        eprintln!(
            "*** SKIPPED: to test missing rights as root takes the program setpriv and its capabilities"
        );
        return;
    }
    for data in [fresh.path(), dir.path()] {
        for folder in [data.to_owned(), data.join("payloads")] {
            if folder.exists() {
                files(&folder).keys().for_each(|file| rights(file, 0o444));
                rights(&folder, 0o555);
            }
        }
        let plain = run(data);
        let mut command = if root { Command::new("setpriv") } else { run(data) };
        if root {
            command.arg("--bounding-set=-all").arg(plain.get_program()).args(plain.get_args());
        }
        let output = ended(&mut command).await;
        refused(&output, &[data.to_str().expect("a plain path")]);
        let said = text(&output.stderr);
        assert!(said.contains("--data") || said.contains("writable"), "{said}");
        // So that it can be cleaned away.
        for folder in [data.to_owned(), data.join("payloads")] {
            if folder.exists() {
                rights(&folder, 0o755);
            }
        }
    }
}
