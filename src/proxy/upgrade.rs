//! Connections that change their protocol (RFC 9110 §7.8), WebSockets above all: a tunnel, and a record of what passed.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};

use super::ClientBody;
use super::headers::lists;
use super::line::Tunnels;
use super::respond::InFlight;
use super::tunnel::{Broken, Way};
use crate::capture::Flight;
use crate::model::{Ended, Micros};
use crate::wire::websocket::{Extensions, Transcript};

/// Both ends of a connection that is about to change its protocol.
pub(super) struct Switch {
    pub client: OnUpgrade,
    pub upstream: OnUpgrade,
    /// The 101's headers.
    pub headers: HeaderMap,
    pub keep_files: bool,
}

/// When one side has ended and the other says nothing, it gets this long: a client that is gone looks like one that
/// only listens.
const ONE_SIDED: Duration = Duration::from_secs(60);

/// What a request that asks for another protocol needs to get it; none where it asks for none, or for one that Remora
/// would rather not be blind to: over HTTP/2 in clear (`h2c`) the same requests would come unseen.
pub(super) fn asked(request: &mut Request<ClientBody>) -> Option<OnUpgrade> {
    let headers = request.headers();
    let asks = request.version() == Version::HTTP_11 && lists(headers, header::CONNECTION, "upgrade");
    (asks && wanted(headers)).then(|| hyper::upgrade::on(request))
}

/// Whether protocols are named, and none that blinds: the upstream may choose any of them.
fn wanted(headers: &HeaderMap) -> bool {
    let blinding =
        |name: &str| name.eq_ignore_ascii_case("h2c") || name.to_ascii_uppercase().starts_with("TLS/");
    let mut named = false;
    for line in headers.get_all(header::UPGRADE) {
        let Ok(line) = line.to_str() else { return false };
        for name in line.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if blinding(name) {
                return false;
            }
            named = true;
        }
    }
    named
}

impl Tunnels {
    /// Starts the tunnel of a 101 that is on its way to the client.
    pub(super) fn open(&self, switch: Switch, flight: Option<Flight>, in_flight: InFlight) {
        let token = self.token();
        self.tasks().spawn_connection(async move {
            switch.run(flight).await;
            drop((in_flight, token));
        });
    }
}

/// Takes down one direction.
enum Scribe {
    /// A WebSocket: a line a message.
    Messages(Box<Transcript>),
    /// Anything else: as it is.
    Bytes,
}

impl Scribe {
    fn take(&mut self, bytes: &[u8]) -> Bytes {
        match self {
            Self::Messages(transcript) => transcript.read(bytes, Micros::now()),
            Self::Bytes => Bytes::copy_from_slice(bytes),
        }
    }

    fn end(&mut self) -> Bytes {
        match self {
            Self::Messages(transcript) => transcript.end(Micros::now()),
            Self::Bytes => Bytes::new(),
        }
    }

    /// Whether this direction should have ended with a closing frame, and did not.
    fn unclosed(&self) -> bool {
        matches!(self, Self::Messages(transcript) if transcript.readable() && !transcript.closed())
    }
}

/// Which side of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

/// How a tunnel ended.
enum Over {
    /// Both sides said that they are done; this one first.
    Done(Side),
    Broken(Side, std::io::Error),
    /// One side is done and the other says nothing.
    Silent(Side),
}

impl Switch {
    async fn run(self, mut flight: Option<Flight>) {
        let mut scribes = self.scribes();
        let (client, upstream) = tokio::join!(self.client, self.upstream);
        let (client, upstream) = match (client, upstream) {
            (Ok(client), Ok(upstream)) => (client, upstream),
            (client, upstream) => {
                let Some(flight) = flight else { return };
                // A client that left before the 101 was written takes the upstream's end along.
                let ended = if client.is_err() { Ended::ClientCancelled } else { Ended::UpstreamReset };
                let error = client.err().or(upstream.err());
                let detail = error.map(|error| format!("the protocol was not changed: {error}"));
                return flight.finish_safely(ended, detail).await;
            }
        };
        let over = carry(client, upstream, &mut scribes, &mut flight).await;
        let Some(mut flight) = flight else { return };
        let [up, down] = &mut scribes;
        flight.request_frame(&up.end());
        flight.request_ended();
        flight.response_frame(&down.end());
        let gone = |side| match side {
            Side::Client => (Ended::ClientCancelled, "the client"),
            Side::Upstream => (Ended::UpstreamReset, "the upstream"),
        };
        let (ended, detail) = match over {
            Over::Done(_) if !(up.unclosed() && down.unclosed()) => (Ended::Complete, None),
            Over::Done(side) => {
                let (ended, who) = gone(side);
                (ended, Some(format!("{who} left without a closing frame")))
            }
            // After the closing frames, how the connection is torn down is nobody's loss.
            Over::Broken(..) if !up.unclosed() && !down.unclosed() && matches!(up, Scribe::Messages(_)) => {
                (Ended::Complete, None)
            }
            Over::Broken(side, error) => {
                let (ended, who) = gone(side);
                (ended, Some(format!("{who} broke off: {error}")))
            }
            Over::Silent(side) => {
                let (ended, who) = gone(side);
                (ended, Some(format!("{who} left, and the other side said nothing more")))
            }
        };
        flight.finish_safely(ended, detail).await;
    }

    fn scribes(&self) -> [Scribe; 2] {
        if !lists(&self.headers, header::UPGRADE, "websocket") {
            return [Scribe::Bytes, Scribe::Bytes];
        }
        let lines = self.headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).into_iter();
        let extensions = Extensions::agreed(lines.filter_map(|line| line.to_str().ok()));
        [(); 2].map(|()| Scribe::Messages(Box::new(Transcript::new(extensions, self.keep_files))))
    }
}

/// Carries bytes both ways until the tunnel is over. Each side's end reaches the other; where one breaks, both end.
async fn carry(
    client: Upgraded,
    upstream: Upgraded,
    scribes: &mut [Scribe; 2],
    flight: &mut Option<Flight>,
) -> Over {
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    let (mut up, mut down) = (Way::default(), Way::default());
    let [up_scribe, down_scribe] = scribes;
    let mut first = None;
    let mut silence: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        let mut moved = false;
        let sent = up.poll(cx, &mut client, &mut upstream, |bytes| {
            moved = true;
            if let Some(flight) = flight.as_mut() {
                flight.request_frame(&up_scribe.take(bytes));
            }
        });
        let received = down.poll(cx, &mut upstream, &mut client, |bytes| {
            moved = true;
            if let Some(flight) = flight.as_mut() {
                flight.response_frame(&down_scribe.take(bytes));
            }
        });
        match (sent, received) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(broken(error, Side::Client, Side::Upstream)),
            (_, Poll::Ready(Err(error))) => Poll::Ready(broken(error, Side::Upstream, Side::Client)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                Poll::Ready(Over::Done(first.unwrap_or(Side::Client)))
            }
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            (sent, _) => {
                let side = *first.get_or_insert(if sent.is_ready() { Side::Client } else { Side::Upstream });
                waited_long(&mut silence, moved, cx).map(|()| Over::Silent(side))
            }
        }
    })
    .await
}

fn broken(error: Broken, from: Side, to: Side) -> Over {
    match error {
        Broken::Reading(error) => Over::Broken(from, error),
        Broken::Writing(error) => Over::Broken(to, error),
    }
}

/// Ready when nothing moved for [`ONE_SIDED`].
fn waited_long(silence: &mut Option<Pin<Box<Sleep>>>, moved: bool, cx: &mut Context<'_>) -> Poll<()> {
    let timer = silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(ONE_SIDED)));
    if moved {
        timer.as_mut().reset(Instant::now() + ONE_SIDED);
    }
    timer.as_mut().poll(cx)
}

/// Whether the upstream changed the protocol.
pub(super) fn switched<B>(response: &Response<B>) -> bool {
    response.status() == http::StatusCode::SWITCHING_PROTOCOLS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_may_blind_is_not_asked_for() {
        let wants = |lines: &[&'static str]| {
            let lines = lines.iter().map(|line| (header::UPGRADE, http::HeaderValue::from_static(line)));
            wanted(&lines.collect())
        };
        assert!(wants(&["websocket"]));
        assert!(wants(&["", "foo/2, websocket"]));
        assert!(!wants(&[]));
        for lines in [&[" ,"][..], &["h2c"], &["websocket, H2C"], &["websocket", "tls/1.2"]] {
            assert!(!wants(lines), "{lines:?}");
        }
    }
}
