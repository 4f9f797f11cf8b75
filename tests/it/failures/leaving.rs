use std::time::{Duration, Instant};

use remora::config::Span;
use remora::model::Ended;

use crate::harness::{Connection, Piece, STREAM_HEAD, Sidecar, Upstream, chunk, until};

/// Money runs until the upstream is told.
const PROMPTLY: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_client_that_leaves_stops_the_upstream_within_a_second() {
    let begun =
        vec![Piece::Send(STREAM_HEAD.to_vec()), Piece::Send(chunk(b"data: one\n\n")), Piece::UntilClosed];
    for (script, came) in [(begun, "data: one\n\n"), (vec![Piece::UntilClosed], "")] {
        let mut fastest = Duration::MAX;
        // The best of a few: the machine may be busy.
        for _ in 0..5 {
            let script = script.clone();
            let upstream = Upstream::start(move |_| script.clone()).await;
            let sidecar = Sidecar::start(&upstream.url()).await;
            let mut client = Connection::open(&sidecar.proxy).await;
            client.post("/v1/chat/completions", "", b"{}").await;
            if came.is_empty() {
                until("the request to arrive", || (upstream.requests().len() == 1).then_some(())).await;
            } else {
                client.read_until(came.as_bytes()).await;
            }
            let left = Instant::now();
            drop(client);
            until("the upstream to be told", || (upstream.cancelled() == 1).then_some(())).await;
            fastest = fastest.min(left.elapsed());
            let recorded = &sidecar.recorded(1).await[0];
            assert_eq!(recorded.ended, Ended::ClientCancelled);
            let kept = recorded.response.as_ref().map_or("".into(), |r| r.body.bytes.clone());
            assert_eq!(kept, came, "what it got is recorded");
        }
        assert!(fastest < PROMPTLY, "{fastest:?}");
    }
}

#[tokio::test]
async fn who_gave_up_first_is_recorded() {
    let upstream = Upstream::start(|_| vec![Piece::UntilClosed]).await;
    let sidecar =
        Sidecar::configured(&upstream.url(), |c| c.upstream.response_timeout = Span::millis(300)).await;
    // The client stays: the silence is the upstream's.
    assert_eq!(sidecar.post("/v1/chat/completions", "", b"{}").await.status, 504);
    let silent = &sidecar.recorded(1).await[0];
    assert_eq!(silent.ended, Ended::UpstreamTimeout);
    assert!(silent.detail.as_ref().is_some_and(|d| d.contains("did not answer")));

    let patient = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&patient.proxy).await;
    client.post("/v1/chat/completions", "", b"{}").await;
    until("the request to arrive", || (upstream.requests().len() == 2).then_some(())).await;
    drop(client);
    let left = &patient.recorded(1).await[0];
    assert_eq!(left.ended, Ended::ClientCancelled);
    assert!(left.response.is_none() && left.timing.head.is_none(), "the upstream had said nothing by then");
}
