use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

/// A connection whose last words are heard. An upstream that refuses an upload answers and closes without reading the
/// rest; the HTTP client would fail on the write that comes too late, with the answer lying in the receive buffer. Here
/// such a write waits, and reading tells: the answer, or that there is none.
#[derive(Debug)]
pub(super) struct Heard<S> {
    io: S,
    /// Nothing more can be written.
    deaf: bool,
    /// Nothing more can be read either: there is nothing to wait for.
    silent: bool,
}

impl<S> Heard<S> {
    pub fn new(io: S) -> Self {
        Self { io, deaf: false, silent: false }
    }

    /// What a write that comes too late gets.
    fn too_late<T>(&self) -> Poll<io::Result<T>> {
        if self.silent { Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) } else { Poll::Pending }
    }

    fn written<T>(&mut self, result: io::Result<T>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match result {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                ) =>
            {
                self.deaf = true;
                // Reading comes first in the next turn; it finds an end if nothing else.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }
}

impl<S: Read + Unpin> Read for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.deaf {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        // Through a buffer of our own, to see whether anything comes: this happens once in a connection's life.
        let mut space = [0; 8192];
        let room = buf.remaining().min(space.len());
        let mut own = hyper::rt::ReadBuf::new(&mut space[..room]);
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, own.unfilled()));
        if result.is_err() || own.filled().is_empty() {
            self.silent = true;
            cx.waker().wake_by_ref();
        }
        buf.put_slice(own.filled());
        Poll::Ready(result)
    }
}

impl<S: Write + Unpin> Write for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return self.too_late();
        }
        let result = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        self.written(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return self.too_late();
        }
        let result = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        self.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return self.too_late();
        }
        let result = ready!(Pin::new(&mut self.io).poll_flush(cx));
        self.written(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: Connection> Connection for Heard<S> {
    fn connected(&self) -> Connected {
        self.io.connected()
    }
}
