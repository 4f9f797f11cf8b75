use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use hyper::body::{Body, Frame, SizeHint};

use super::framing::{Flaw, Framing};

/// What a connection's socket and its requests know of each other.
///
/// The counters are written by the connection's own tasks and guard no other memory, so no order among them is asked
/// for: a late sight of one costs another round of the timer.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Session {
    /// Requests whose answer has not ended.
    busy: AtomicU32,
    /// HTTP/2 answers that gave a piece and were not asked for the next: it cannot be sent.
    stuck: AtomicU32,
    /// Heads that may be forwarded.
    heads: AtomicU32,
    /// Requests that came out of hyper.
    served: AtomicU32,
    /// Code of a [`Flaw`]; 0: none.
    flaw: AtomicU8,
    tunnel: AtomicBool,
    rested: AtomicBool,
}

impl Session {
    /// Whether the next HTTP/1 request that hyper gives may be forwarded. Called once for each, in their order.
    pub fn admit(&self) -> Result<(), Flaw> {
        let number = self.served.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // Wraps around like the numbers.
        if self.heads.load(Ordering::Relaxed).wrapping_sub(number) <= u32::MAX / 2 {
            return Ok(());
        }
        // hyper saw the end of a head where the strict reader saw none: at a bare LF.
        Err(Flaw::from_code(self.flaw.load(Ordering::Relaxed)).unwrap_or(Flaw::Line))
    }

    /// Whether requests were read that hyper has not given yet: sent ahead of the answers before them.
    pub(super) fn is_ahead(&self) -> bool {
        let ahead = self.heads.load(Ordering::Relaxed).wrapping_sub(self.served.load(Ordering::Relaxed));
        (1..=u32::MAX / 2).contains(&ahead)
    }

    /// Tells what the strict reader found.
    pub(super) fn publish(&self, framing: &Framing) {
        self.heads.store(framing.heads(), Ordering::Relaxed);
        if let Some(flaw) = framing.flaw() {
            self.flaw.store(flaw as u8, Ordering::Relaxed);
        }
    }

    /// From here on the connection is a tunnel: it may rest as long as it likes.
    pub fn tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) > 0
    }

    /// An HTTP/2 connection has rested its time.
    pub(super) fn rest(&self) {
        self.rested.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to be ended in order.
    pub fn rested(&self) -> bool {
        self.rested.load(Ordering::Relaxed)
    }
}

/// A request under way. `C` is what its connection shares, the session among it: one count of references for all.
#[derive(Debug)]
pub(in crate::proxy) struct Busy<C: AsRef<Session>> {
    client: Arc<C>,
    http2: bool,
    stuck: bool,
}

impl<C: AsRef<Session>> Busy<C> {
    /// A request has come. Its answer is not over before this is dropped.
    pub fn begin(client: &Arc<C>, version: Version) -> Self {
        (**client).as_ref().busy.fetch_add(1, Ordering::Relaxed);
        Self { client: client.clone(), http2: version == Version::HTTP_2, stuck: false }
    }

    fn session(&self) -> &Session {
        (*self.client).as_ref()
    }

    fn stuck(&mut self, stuck: bool) {
        if self.http2 && self.stuck != stuck {
            self.stuck = stuck;
            if stuck {
                self.session().stuck.fetch_add(1, Ordering::Relaxed);
            } else {
                self.session().stuck.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl<C: AsRef<Session>> Drop for Busy<C> {
    fn drop(&mut self) {
        self.stuck(false);
        self.session().busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body that tells its connection when it is over.
#[derive(Debug)]
pub(in crate::proxy) struct Passed<B, C: AsRef<Session>> {
    inner: B,
    busy: Busy<C>,
}

impl<B, C: AsRef<Session>> Passed<B, C> {
    pub fn new(inner: B, busy: Busy<C>) -> Self {
        Self { inner, busy }
    }
}

impl<B: Body<Data = Bytes> + Unpin, C: AsRef<Session>> Body for Passed<B, C> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        let given = matches!(&frame, Poll::Ready(Some(Ok(_))));
        self.busy.stuck(given);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_heads_that_were_read_strictly_are_admitted() {
        let session = Session::default();
        let mut framing = Framing::new(1 << 10, 10);
        framing.take(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n");
        session.publish(&framing);
        assert_eq!(session.admit(), Ok(()));
        assert_eq!(session.admit(), Err(Flaw::Host));
    }
}
