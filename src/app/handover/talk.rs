use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::AT_ONCE;

/// More sockets than there are settings for them.
const MOST_SOCKETS: usize = 8;
/// Bytes; longer than any line.
const LINE: usize = 4096;

/// A conversation by lines.
pub(super) struct Talk(pub(super) UnixStream);

impl Talk {
    /// With a process of the same user, or of root.
    pub(super) fn with(stream: UnixStream) -> Result<Self> {
        let other = stream.peer_cred()?.uid();
        if other != rustix::process::geteuid().as_raw() && other != 0 {
            return Err(Error::new(ErrorKind::PermissionDenied, format!("the other side is user {other}")));
        }
        Ok(Self(stream))
    }

    pub(super) async fn say(&mut self, line: &str) -> Result<()> {
        self.0.write_all(format!("{line}\n").as_bytes()).await
    }

    /// The next line; none when the other side is gone.
    pub(super) async fn hear(&mut self, limit: Duration) -> Result<Option<String>> {
        let line = async {
            let mut line = Vec::new();
            loop {
                // One by one: what follows the line may carry sockets.
                match self.0.read_u8().await {
                    Ok(b'\n') => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
                    Ok(byte) if line.len() < LINE => line.push(byte),
                    Ok(_) => return Err(Error::new(ErrorKind::InvalidData, "the line does not end")),
                    Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                    Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
                    Err(e) => return Err(e),
                }
            }
        };
        timeout(limit, line).await.unwrap_or_else(|_| Err(Error::from(ErrorKind::TimedOut)))
    }

    /// Hears exactly this; false when the other side is gone.
    pub(super) async fn expect(&mut self, what: &str, limit: Duration) -> Result<bool> {
        match self.hear(limit).await? {
            Some(line) if line == what => Ok(true),
            Some(line) => Err(Error::new(ErrorKind::InvalidData, format!("{line:?} instead of {what}"))),
            None => Ok(false),
        }
    }

    pub(super) async fn say_with(&self, line: &str, sockets: &[BorrowedFd<'_>]) -> Result<()> {
        let text = format!("{line}\n");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(Error::other("too many sockets"));
        }
        let send = || {
            let parts = [IoSlice::new(text.as_bytes())];
            Ok(rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::empty())?)
        };
        match self.0.async_io(Interest::WRITABLE, send).await? {
            sent if sent == text.len() => Ok(()),
            _ => Err(Error::from(ErrorKind::WriteZero)),
        }
    }

    /// A line with the sockets that came with it; none when the other side is gone.
    pub(super) async fn hear_with(&self) -> Result<Option<(String, Vec<OwnedFd>)>> {
        let (mut text, mut sockets) = (Vec::new(), Vec::new());
        while text.last() != Some(&b'\n') {
            let mut bytes = [0; LINE];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
            let receive = || {
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut bytes)];
                let got = rustix::net::recvmsg(&self.0, &mut parts, &mut control, PRIVATE)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(passed) = message {
                        sockets.extend(passed);
                    }
                }
                Ok(got.bytes)
            };
            let received = timeout(AT_ONCE, self.0.async_io(Interest::READABLE, receive));
            match received.await.unwrap_or_else(|_| Err(Error::from(ErrorKind::TimedOut))) {
                Ok(0) => return Ok(None),
                Ok(n) => text.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(Some((String::from_utf8_lossy(&text).trim_end().to_owned(), sockets)))
    }
}

/// Received sockets are not for child processes.
#[cfg(target_os = "linux")]
const PRIVATE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const PRIVATE: RecvFlags = RecvFlags::empty();
