use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One direction of a tunnel. Reads only what it could write: a slow side holds the other back.
#[derive(Debug)]
pub(super) struct Way {
    buffer: Box<[u8]>,
    /// What was read and is not written yet.
    waiting: std::ops::Range<usize>,
    unflushed: bool,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Flowing,
    /// The one side ended; the other is to be told.
    Ending,
    Ended,
}

/// A direction broke, at one of its ends.
#[derive(Debug)]
pub(super) enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

/// Read at a time.
const BUFFER: usize = 16 << 10;

impl Default for Way {
    fn default() -> Self {
        Self { buffer: vec![0; BUFFER].into(), waiting: 0..0, unflushed: false, state: State::Flowing }
    }
}

impl Way {
    /// Carries on; ready when the end of `from` was passed on to `to`. `seen` gets what is read.
    pub fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut S,
        to: &mut S,
        mut seen: impl FnMut(&[u8]),
    ) -> Poll<Result<(), Broken>> {
        loop {
            while !self.waiting.is_empty() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.waiting.clone()]));
                match n.map_err(Broken::Writing)? {
                    0 => return Poll::Ready(Err(Broken::Writing(io::ErrorKind::WriteZero.into()))),
                    n => self.waiting.start += n,
                }
                self.unflushed = true;
            }
            match self.state {
                State::Flowing => {
                    let mut space = ReadBuf::new(&mut self.buffer);
                    match Pin::new(&mut *from).poll_read(cx, &mut space) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Reading(error))),
                        Poll::Pending => {
                            if self.unflushed {
                                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::Writing)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                    let n = space.filled().len();
                    if n == 0 {
                        self.state = State::Ending;
                    } else {
                        seen(&self.buffer[..n]);
                        self.waiting = 0..n;
                    }
                }
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::Writing)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}
