use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::framing::Framing;
use super::{Place, Session, Terms};

/// A client's connection under limits: between the socket, or TLS, and hyper.
pub(in crate::proxy) struct Guarded<S, C> {
    inner: S,
    framing: Framing,
    /// What the connection's requests share with it.
    client: Arc<C>,
    terms: Arc<Terms>,
    /// What the client is waited for to send, and since when.
    reading: Option<(Awaited, Instant)>,
    /// Since when the client takes nothing of what waits to be written.
    writing: Option<Instant>,
    /// Whether something was written since [`Awaited::Window`] began.
    progress: bool,
    /// Rings no later than the earliest deadline. Deadlines move with each request, this only when it has rung.
    bell: Option<Pin<Box<Sleep>>>,
    /// Our side is closed; what still comes is thrown away.
    closed: bool,
    /// Held as long as the connection lives, whatever becomes of it.
    _place: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The beginning of a request.
    Request,
    /// The rest of a head, or of a body that nobody reads any more.
    Rest,
    /// HTTP/2: leave to send more.
    Window,
    /// HTTP/2: nothing in particular while answers are under way. Looked at now and then, for nobody tells the socket
    /// when one of them is stuck or the last of them has ended.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Request,
    Rest,
    Reader,
}

/// After an error the client may still be sending. If the socket closed at once, what it sends would reset the
/// connection, and the answer with it; so for this long it is read and thrown away.
const LINGER: Duration = Duration::from_secs(2);

impl<S, C: AsRef<Session>> Guarded<S, C> {
    pub fn new(inner: S, client: Arc<C>, terms: Arc<Terms>, place: Option<Place>) -> Self {
        Self {
            inner,
            framing: Framing::new(terms.header_size, terms.headers),
            client,
            terms,
            reading: None,
            writing: None,
            progress: false,
            bell: None,
            closed: false,
            _place: place,
        }
    }

    fn session(&self) -> &Session {
        (*self.client).as_ref()
    }

    fn awaited(&self) -> Option<Awaited> {
        let session = self.session();
        if session.is_tunnel() {
            None
        } else if session.is_busy() {
            match self.framing.opaque() {
                false => None,
                true if session.is_stuck() => Some(Awaited::Window),
                true => Some(Awaited::Nothing),
            }
        } else if self.framing.opaque() || self.framing.resting() {
            Some(Awaited::Request)
        } else {
            Some(Awaited::Rest)
        }
    }

    /// Whether the client has passed a deadline; else its passing will wake the task.
    fn late(&mut self, cx: &mut Context<'_>) -> Option<Late> {
        loop {
            let (deadline, late) = match (self.writing, self.reading) {
                // While an answer waits, the client has that to do first.
                (Some(since), _) => (since + self.terms.write_timeout, Late::Reader),
                (None, Some((awaited, since))) => match awaited {
                    Awaited::Request => (since + self.terms.keep_alive, Late::Request),
                    Awaited::Rest => (since + self.terms.header_timeout, Late::Rest),
                    Awaited::Window => (since + self.terms.write_timeout, Late::Reader),
                    Awaited::Nothing => {
                        (since + self.terms.keep_alive.min(self.terms.write_timeout), Late::Request)
                    }
                },
                (None, None) => return None,
            };
            let bell = self.bell.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if bell.deadline() > deadline {
                bell.as_mut().reset(deadline);
            }
            if bell.as_mut().poll(cx).is_pending() {
                return None;
            }
            let now = Instant::now();
            if now < deadline {
                bell.as_mut().reset(deadline);
                continue;
            }
            match self.reading {
                Some((Awaited::Window, _)) if self.writing.is_none() && self.progress => {
                    self.progress = false;
                    self.reading = Some((Awaited::Window, now));
                }
                Some((Awaited::Nothing, _)) if self.writing.is_none() => {
                    self.reading = self.awaited().map(|awaited| (awaited, now));
                }
                _ => return Some(late),
            }
        }
    }

    /// Nothing comes from the client: is it to be waited for?
    fn starved(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (self.awaited(), self.reading) {
            (Some(awaited), Some((before, _))) if awaited == before => {}
            (Some(awaited), _) => {
                self.progress = false;
                self.reading = Some((awaited, Instant::now()));
            }
            (None, _) => self.reading = None,
        }
        match self.late(cx) {
            None => Poll::Pending,
            Some(Late::Request) if self.framing.opaque() && !self.session().rested() => {
                // HTTP/2 says goodbye first, so that no request crosses the end.
                self.session().rest();
                self.reading = Some((Awaited::Request, Instant::now()));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            // As if the client had closed: there is nothing to complain of.
            Some(Late::Request) => Poll::Ready(Ok(())),
            Some(Late::Rest) => {
                self.terms.late_heads.increment(1);
                Poll::Ready(Err(timed_out("the client took too long to send a request's head")))
            }
            Some(Late::Reader) => Poll::Ready(Err(self.slow_reader())),
        }
    }

    fn slow_reader(&mut self) -> io::Error {
        self.writing = None;
        self.reading = None;
        self.terms.slow_readers.increment(1);
        timed_out("the client does not read its answer")
    }

    /// Takes note of how a write went.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.writing = None;
            self.progress = true;
            return result;
        }
        self.writing.get_or_insert_with(Instant::now);
        match self.late(cx) {
            Some(Late::Reader) => Poll::Ready(Err(self.slow_reader())),
            _ => Poll::Pending,
        }
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + Unpin, C: AsRef<Session>> AsyncRead for Guarded<S, C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Pending => this.starved(cx),
            // The client ended its side after requests that are still to be answered. hyper looks again when it has come
            // to the last of them.
            Poll::Ready(Ok(())) if buf.filled().len() == before && this.session().is_ahead() => Poll::Pending,
            Poll::Ready(Ok(())) => {
                let heads = this.framing.heads();
                if this.session().is_tunnel() {
                    this.framing.stop();
                }
                this.framing.take(&buf.filled()[before..]);
                this.session().publish(&this.framing);
                let goes_on = match this.reading {
                    // A head's time runs from its first byte, however its bytes come.
                    Some((Awaited::Rest, _)) => heads == this.framing.heads(),
                    // Empty lines begin no request.
                    Some((Awaited::Request, _)) => heads == this.framing.heads() && this.framing.resting(),
                    _ => false,
                };
                if !goes_on {
                    this.reading = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: AsRef<Session>> AsyncWrite for Guarded<S, C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.wrote(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_flush(cx);
        // Most flushes have nothing to do, which is no progress.
        if result.is_ready() && this.writing.is_none() {
            return result;
        }
        this.wrote(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            let result = Pin::new(&mut this.inner).poll_shutdown(cx);
            ready!(this.wrote(cx, result))?;
            this.closed = true;
            let until = Instant::now() + LINGER;
            match &mut this.bell {
                Some(bell) => bell.as_mut().reset(until),
                None => this.bell = Some(Box::pin(tokio::time::sleep_until(until))),
            }
        }
        // A tunnel's client goes on being read, by others.
        if this.session().is_tunnel() || this.framing.opaque() || this.framing.resting() {
            return Poll::Ready(Ok(()));
        }
        let mut waste = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut waste);
            match Pin::new(&mut this.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
            if this.bell.as_ref().is_none_or(|bell| bell.deadline() <= Instant::now()) {
                return Poll::Ready(Ok(()));
            }
        }
        match &mut this.bell {
            Some(bell) => bell.as_mut().poll(cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }
}
