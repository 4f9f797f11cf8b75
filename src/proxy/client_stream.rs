//! The bytes of a client's HTTP/1 connection, below the HTTP server, which knows neither interim responses nor
//! half-closed clients, and closes at once.
//!
//! - **Interim responses** (103 and the like) are written where the server has nothing half-written.
//! - **A client that ends its side** (FIN) after its whole request may wait for the answer, or be gone: both look the
//!   same. It is asked: by an interim `100 Continue`, which a client that waits must skip (RFC 9110 §15.2) and which
//!   the system of one that is gone answers with a reset. One that ends its side while the response comes, or in the
//!   middle of its request, or behind TLS, or with HTTP/1.0, is gone.
//! - **Closing lingers** when a client may still be sending a body that nobody wants: closing with bytes unread would
//!   reset the connection, and the client might lose the response before it read it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::turn::{Coming, Phase, Turn};

/// A client's connection. See the module.
#[derive(Debug)]
pub struct ClientStream<S> {
    io: S,
    turn: Turn,
    /// Tells a client that is gone from one that waits; none where that cannot be told.
    gone: Option<fn(&S) -> bool>,
    /// The server has nothing half-written.
    clean: bool,
    /// The client ended its side and waits.
    half_closed: bool,
    /// It was asked whether it is still there.
    probed: bool,
    timer: Option<Pin<Box<Sleep>>>,
    lingering: Option<Lingering>,
}

#[derive(Debug)]
struct Lingering {
    until: Instant,
    silence: Pin<Box<Sleep>>,
}

/// Asks whether the client is there.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How often the answer to the probe is looked for. It comes by no event: to the socket, the end was read already.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A client that sends nothing for this long has read its response.
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// No client is waited for longer.
const LINGER: Duration = Duration::from_secs(30);

impl ClientStream<TcpStream> {
    /// A connection without TLS.
    #[must_use]
    pub fn plain(io: TcpStream, turn: Turn) -> Self {
        // Asked once, the system forgets it.
        Self::new(io, turn, Some(|io| !matches!(io.take_error(), Ok(None))))
    }
}

impl<S> ClientStream<S> {
    /// A connection whose end means that the client is gone: behind TLS.
    #[must_use]
    pub fn sealed(io: S, turn: Turn) -> Self {
        Self::new(io, turn, None)
    }

    fn new(io: S, turn: Turn, gone: Option<fn(&S) -> bool>) -> Self {
        Self { io, turn, gone, clean: true, half_closed: false, probed: false, timer: None, lingering: None }
    }
}

impl<S: AsyncWrite + Unpin> ClientStream<S> {
    /// Writes interim responses, if it is their time.
    fn write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.clean {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut state = self.turn.state();
            if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            if state.interim.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &state.interim))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.interim.drain(..n);
        }
    }

    /// The client ended its side: an error or its end when it is gone, pending when it waits for its response.
    fn ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(gone) = self.gone else { return Poll::Ready(Ok(())) };
        loop {
            let mut state = self.turn.state();
            let waits = match state.phase {
                Phase::Resting => false,
                Phase::Answering => self.half_closed,
                Phase::Waiting => state.interims_understood,
            };
            if !waits {
                return Poll::Ready(Ok(()));
            }
            self.half_closed = true;
            let request = state.request;
            if request == Coming::Ended && !self.probed && state.phase == Phase::Waiting {
                self.probed = true;
                state.interim.extend_from_slice(PROBE);
            }
            state.listening = true;
            state.waker = Some(cx.waker().clone());
            drop(state);
            // What cannot be written now is written when the server flushes.
            let _ = self.write_interim(cx)?;
            if gone(&self.io) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK_EVERY)));
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + LOOK_EVERY);
            // All that came was handed on, and more is missing: the request broke off.
            if request == Coming::Starving && self.turn.state().request == Coming::Starving {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if buf.filled().len() > before || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        this.ended(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.write_interim(cx))?;
        self.clean = false;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.write_interim(cx))?;
        self.clean = false;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The server flushes when it has written all that it had.
        self.clean = true;
        ready!(self.write_interim(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if !this.turn.state().given_up {
                return Poll::Ready(Ok(()));
            }
            this.lingering = Some(Lingering {
                until: Instant::now() + LINGER,
                silence: Box::pin(tokio::time::sleep(LINGER_SILENCE)),
            });
        }
        let Some(lingering) = &mut this.lingering else { return Poll::Ready(Ok(())) };
        let mut space = [0; 4096];
        while Instant::now() < lingering.until {
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut this.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    lingering.silence.as_mut().reset(Instant::now() + LINGER_SILENCE);
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return lingering.silence.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}
