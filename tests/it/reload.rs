//! New settings without a restart.

use bytesize::ByteSize;
use remora::config::Span;
use rustix::process::Signal;

use crate::harness::{
    Connection, Gate, LAST_CHUNK, Launch, Piece, Process, STREAM_HEAD, Sidecar, Upstream, chunk, plain, until,
};

/// An upstream that says its name; a stream waits for the gate between two pieces.
async fn named(name: &'static str, gate: Gate) -> Upstream {
    Upstream::start(move |request| {
        if request.head.contains("/streamed") {
            return vec![
                Piece::Send(STREAM_HEAD.to_vec()),
                Piece::Send(chunk(name.as_bytes())),
                Piece::Wait(gate.clone()),
                Piece::Send(chunk(name.as_bytes())),
                Piece::Send(LAST_CHUNK.to_vec()),
            ];
        }
        vec![Piece::Send(plain("200 OK", "", name.as_bytes()))]
    })
    .await
}

async fn answer(proxy: &str) -> String {
    let mut connection = Connection::open(proxy).await;
    let answer = connection.try_post("/v1/plain", b"{}").await.expect("an answer");
    String::from_utf8(answer.body).expect("text")
}

async fn metric(process: &Process, name: &str) -> f64 {
    let mut connection = Connection::open(&process.admin).await;
    connection.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    let page = String::from_utf8(connection.answer().await.body).expect("text");
    let line = page.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{page}"));
    line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number")
}

/// Waits until a metric has a value.
async fn shows(process: &Process, name: &str, value: f64) {
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while (metric(process, name).await - value).abs() > f64::EPSILON {
        assert!(tokio::time::Instant::now() < deadline, "{name} never was {value}: {}", process.messages());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

const DONE: &str = "remora_config_reloads_total{result=\"done\"}";
const FAILED: &str = "remora_config_reload_failed";

#[tokio::test]
async fn a_changed_file_holds_for_new_requests_while_running_ones_finish_under_the_old_one() {
    let gate = Gate::default();
    let (a, b) = (named("from a", gate.clone()).await, named("from b", Gate::default()).await);
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let launch = || Launch::new(&scratch.path().join("data"), scratch.path());
    let to = |upstream: &Upstream| launch().configure(&format!("upstream:\n  url: {}\n", upstream.url()));
    to(&a);
    let process = launch().start().await;
    let mut stream = Connection::open(&process.proxy).await;
    stream.post("/v1/streamed", "", b"{}").await;
    stream.read_until(b"from a").await;
    // A connection that was there before is no reason for the old settings.
    let mut kept = Connection::open(&process.proxy).await;
    assert_eq!(kept.try_post("/v1/plain", b"{}").await.expect("an answer").body, b"from a");
    to(&b);
    shows(&process, DONE, 1.0).await;
    assert_eq!(kept.try_post("/v1/plain", b"{}").await.expect("an answer").body, b"from b");
    assert_eq!(answer(&process.proxy).await, "from b");
    gate.open();
    let answer = stream.answer().await;
    assert!(answer.whole);
    assert_eq!(answer.body, b"from afrom a");
}

#[tokio::test]
async fn a_wrong_file_keeps_the_old_settings_and_says_why() {
    let a = named("from a", Gate::default()).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let launch = || Launch::new(&scratch.path().join("data"), scratch.path());
    let right = format!("upstream:\n  url: {}\n", a.url());
    launch().configure(&right);
    let process = launch().start().await;
    // A key that does not exist; and settings that read well but cannot be used.
    for (wrong, said) in [("colour: red\n", "colour"), ("upstream:\n  ca: /nowhere.pem\n", "nowhere.pem")] {
        launch().configure(wrong);
        shows(&process, FAILED, 1.0).await;
        assert!(process.messages().contains(said), "{}", process.messages());
        assert_eq!(answer(&process.proxy).await, "from a");
        launch().configure(&right);
        shows(&process, FAILED, 0.0).await;
    }
    assert_eq!(metric(&process, "remora_config_reloads_total{result=\"failed\"}").await, 2.0);
    let lines = process.messages().lines().filter(|l| l.contains("stays in force")).count();
    assert_eq!(lines, 2, "each is said once, on one line: {}", process.messages());
}

#[tokio::test]
async fn options_win_over_the_file_after_a_reload_and_what_needs_a_restart_is_named() {
    let (a, b) = (named("from a", Gate::default()).await, named("from b", Gate::default()).await);
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let launch = || Launch::new(&scratch.path().join("data"), scratch.path());
    let process = launch().with(&["--upstream", &a.url()]).start().await;
    // The address is an option's, too; the log's format is the file's.
    launch().configure(&format!(
        "listen: 127.0.0.1:1\nupstream:\n  url: {}\nlog:\n  format: json\n  filter: info,remora=debug\n",
        b.url()
    ));
    shows(&process, DONE, 1.0).await;
    assert_eq!(answer(&process.proxy).await, "from a");
    let messages = process.messages();
    let warning = messages.lines().find(|l| l.contains("needs a restart")).expect("it is said");
    assert!(warning.contains("log.format") && !warning.contains("listen"), "{warning}");
}

#[tokio::test]
async fn a_signal_reloads_although_the_file_is_as_it_was() {
    let a = named("from a", Gate::default()).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let process = Process::start(&a.url(), &scratch.path().join("data"), scratch.path()).await;
    for n in 1..=3 {
        process.signal(Signal::HUP);
        shows(&process, DONE, f64::from(n)).await;
    }
    assert_eq!(answer(&process.proxy).await, "from a");
}

#[tokio::test]
async fn capture_rules_and_limits_change_for_new_requests() {
    let gate = Gate::default();
    let upstream = named("0123456789", gate.clone()).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    let mut stream = Connection::open(&sidecar.proxy).await;
    stream.post("/v1/streamed", "", b"{}").await;
    stream.read_until(b"0123456789").await;

    sidecar.reload(|c| c.capture.skip_paths = vec!["/v1/skipped".into()]).await;
    sidecar.post("/v1/skipped", "", b"{}").await;
    sidecar.reload(|c| c.capture.enabled = false).await;
    sidecar.post("/v1/off", "", b"{}").await;
    sidecar
        .reload(|c| {
            c.capture.enabled = true;
            c.capture.max_body = ByteSize::b(4);
            c.capture.secret_headers = vec!["x-customer".into()];
        })
        .await;
    sidecar.post("/v1/short", "x-customer: me\r\n", b"{}").await;
    let recorded = sidecar.recorded(1).await;
    let body = recorded[0].response.as_ref().expect("it was answered").body.clone();
    assert_eq!((&body.bytes[..], body.length, body.truncated), (&b"0123"[..], 10, true));
    assert!(recorded[0].request_headers.get("x-customer").expect("kept").starts_with("[fingerprint"));

    // It began under the first settings, and is recorded under them.
    gate.open();
    assert!(stream.answer().await.whole);
    let recorded = sidecar.recorded(2).await;
    let body = &recorded[1].response.as_ref().expect("it was answered").body;
    assert_eq!((&body.bytes[..], body.truncated), (&b"01234567890123456789"[..], false));
    assert_eq!(recorded.len(), 2, "what was skipped was recorded");
    sidecar.stop().await;
}

#[tokio::test]
async fn exchanges_under_earlier_settings_are_recorded_when_they_are_interrupted() {
    let upstream = named("data", Gate::default()).await;
    let mut sidecar = Sidecar::configured(&upstream.url(), |c| c.shutdown.grace = Span::millis(100)).await;
    let mut stream = Connection::open(&sidecar.proxy).await;
    stream.post("/v1/streamed", "", b"{}").await;
    stream.read_until(b"data").await;
    sidecar.reload(|c| c.capture.max_body = ByteSize::kib(1)).await;
    sidecar.stop().await;
    assert_eq!(sidecar.recorded(1).await[0].ended, remora::model::Ended::Interrupted);
}

#[tokio::test]
async fn the_dashboards_names_change() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let page = async |host: &str| {
        let mut connection = Connection::open(&sidecar.admin).await;
        connection.send(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        connection.answer().await.status
    };
    assert_eq!(page("remora.example").await, 421);
    sidecar.reload(|c| c.dashboard.allowed_hosts = vec!["remora.example".into()]).await;
    assert_eq!(page("remora.example").await, 200);
    sidecar.reload(|c| c.dashboard.allowed_hosts.clear()).await;
    assert_eq!(page("remora.example").await, 421);
}

#[tokio::test]
async fn the_filter_of_logs_changes() {
    let a = named("from a", Gate::default()).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let launch = || Launch::new(&scratch.path().join("data"), scratch.path()).with(&["--upstream", &a.url()]);
    let process = launch().start().await;
    assert!(!process.messages().contains("DEBUG"));
    launch().configure("log:\n  filter: debug\n");
    shows(&process, DONE, 1.0).await;
    answer(&process.proxy).await;
    until("debug lines", || process.messages().contains("DEBUG").then_some(())).await;
}

#[tokio::test]
async fn traffic_goes_on_while_settings_change_again_and_again() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    let answered = std::cell::Cell::new(0);
    let changes = async {
        let mut n = 0;
        while n < 20 || answered.get() < 20 {
            n += 1;
            sidecar
                .reload(|c| {
                    c.capture.max_body = ByteSize::kib(n);
                    c.trajectories.every = Some(Span::millis(10 + n));
                })
                .await;
        }
        n
    };
    tokio::pin!(changes);
    let reloads = loop {
        tokio::select! {
            biased;
            answer = connection.try_post("/v1/models", b"{}") => {
                assert_eq!(answer.expect("an answer").status, 200);
                answered.set(answered.get() + 1);
            }
            reloads = &mut changes => break reloads,
        }
    };
    drop(connection);
    // The request that the last change came upon was cut by this test, and is recorded, too.
    sidecar.recorded(answered.get()).await;
    let counted = sidecar.metric("remora_config_reloads_total{result=\"done\"}").await;
    assert!((counted - reloads as f64).abs() < 0.5, "{counted} of {reloads} reloads were done");
}
