use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderValue, Response, StatusCode, Version, header};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// What the listener does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accepts nothing for the moment; clients wait in the system's queue. The process starts, or hands over.
    Waiting,
    /// Accepts and answers.
    Serving,
    /// Accepts nothing more.
    Draining {
        /// Until then connections at rest are kept: a request that is already under way to us is answered.
        rest: Instant,
        /// Until then exchanges may finish.
        end: Instant,
    },
}

impl Phase {
    /// Draining within limits; where it drains already, the earlier limits hold.
    #[must_use]
    pub fn draining(self, rest: Instant, end: Instant) -> Self {
        match self {
            Self::Draining { rest: r, end: e } => Self::Draining { rest: r.min(rest), end: e.min(end) },
            Self::Waiting | Self::Serving => Self::Draining { rest, end },
        }
    }
}

/// One connection's view of the end.
///
/// HTTP/1.1 cannot tell a client that a connection at rest is about to close: a request may cross the closing on its
/// way, and is lost (RFC 9112, section 9.6). So such a connection is kept for a while, and the next answer over it says
/// `connection: close`. HTTP/2 has GOAWAY, which says which requests were not looked at: it is sent at once.
pub(super) struct Parting {
    phase: watch::Receiver<Phase>,
    /// It is HTTP/2.
    multiplexed: AtomicBool,
    found_multiplexed: Notify,
}

impl Parting {
    pub(super) fn new(phase: watch::Receiver<Phase>) -> Self {
        Self { phase, multiplexed: AtomicBool::new(false), found_multiplexed: Notify::new() }
    }

    /// Resolves when the connection is to close as soon as nothing is under way on it.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn due(&self) {
        let mut phase = self.phase.clone();
        loop {
            let now = *phase.borrow_and_update();
            let changed = match now {
                Phase::Waiting | Phase::Serving => phase.changed().await,
                Phase::Draining { .. } if self.multiplexed.load(Ordering::Relaxed) => return,
                Phase::Draining { rest, .. } => tokio::select! {
                    changed = phase.changed() => changed,
                    () = self.found_multiplexed.notified() => Ok(()),
                    () = sleep_until(rest) => return,
                },
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// The same end for a connection within this one.
    pub(super) fn within(&self) -> Self {
        Self::new(self.phase.clone())
    }

    /// Whether the phase has changed since the connection began. Until then [`due`](Self::due), asked once, has nothing
    /// new to say. Any change counts: each wakes whoever waits for `due`, which must be asked again to be woken by the
    /// next. So the phase is never marked as seen here.
    pub(super) fn stirred(&self) -> bool {
        self.phase.has_changed().unwrap_or(true)
    }

    /// Whether the end has begun.
    fn begun(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Draining { .. })
    }

    /// Tells the client with an answer that the connection ends with it, if it does.
    pub(super) fn mark<B>(&self, version: Version, response: &mut Response<B>) {
        if version == Version::HTTP_2 {
            if !self.multiplexed.swap(true, Ordering::Relaxed) {
                self.found_multiplexed.notify_one();
            }
        } else if self.begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Waits until `done`, or until the drain's limit, whichever is first; false: the limit was first.
pub(super) async fn within_limit(mut phase: watch::Receiver<Phase>, done: impl Future<Output = ()>) -> bool {
    tokio::pin!(done);
    loop {
        let now = *phase.borrow_and_update();
        let Phase::Draining { end, .. } = now else { return false };
        tokio::select! {
            biased;
            () = &mut done => return true,
            () = sleep_until(end) => return false,
            changed = phase.changed() => if changed.is_err() {
                return false;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    fn after(secs: u64) -> Instant {
        Instant::now() + Duration::from_secs(secs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_to_drain_only_shortens() {
        let (rest, end) = (after(5), after(50));
        let first = Phase::Serving.draining(rest, end);
        assert_eq!(first.draining(after(60), after(10)), Phase::Draining { rest, end: after(10) });
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_at_rest_is_kept_for_its_time() {
        let (phase, watched) = watch::channel(Phase::Serving);
        let parting = Parting::new(watched);
        let begun = Instant::now();
        phase.send_replace(Phase::Draining { rest: after(7), end: after(30) });
        parting.due().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_before_the_end_does_not_hide_it() {
        let (phase, watched) = watch::channel(Phase::Serving);
        let parting = Parting::new(watched);
        let begun = Instant::now();
        let (mut due, mut listening) = (pin!(parting.due()), false);
        let ended = poll_fn(|cx| {
            if listening && !parting.stirred() {
                return Poll::Pending;
            }
            listening = true;
            due.as_mut().poll(cx)
        });
        let changes = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            phase.send_replace(Phase::Waiting);
            tokio::time::sleep(Duration::from_secs(1)).await;
            phase.send_replace(Phase::Draining { rest: after(7), end: after(30) });
        };
        let (ended, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(60), ended), changes);
        assert!(ended.is_ok());
        assert_eq!(begun.elapsed(), Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_is_told_at_once_although_its_first_request_comes_late() {
        let (phase, watched) = watch::channel(Phase::Serving);
        let parting = Parting::new(watched);
        phase.send_replace(Phase::Draining { rest: after(7), end: after(30) });
        let begun = Instant::now();
        let late = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut response = Response::new(());
            parting.mark(Version::HTTP_2, &mut response);
            assert!(response.headers().is_empty());
        };
        tokio::join!(parting.due(), late);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn only_answers_while_draining_end_a_connection() {
        let (phase, watched) = watch::channel(Phase::Serving);
        let parting = Parting::new(watched);
        let close = |parting: &Parting| {
            let mut response = Response::new(());
            parting.mark(Version::HTTP_11, &mut response);
            response.headers().get(header::CONNECTION).cloned()
        };
        assert_eq!(close(&parting), None);
        phase.send_replace(Phase::Draining { rest: after(7), end: after(30) });
        assert_eq!(close(&parting), Some(HeaderValue::from_static("close")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_may_come_closer_while_exchanges_finish() {
        let (phase, watched) = watch::channel(Phase::Serving.draining(after(600), after(600)));
        let begun = Instant::now();
        let hurry = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            phase.send_modify(|p| *p = p.draining(after(1), after(5)));
        };
        let (done, ()) = tokio::join!(within_limit(watched, std::future::pending()), hurry);
        assert!(!done);
        assert_eq!(begun.elapsed(), Duration::from_secs(15));
    }
}
