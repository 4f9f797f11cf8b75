use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// A raw HTTP/1.1 connection: sends what it is given and sees what comes.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response as its bytes came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Chunks taken out of their framing.
    pub body: Vec<u8>,
    /// Whether the body ended as its framing promised.
    pub whole: bool,
    /// Whether the connection ends with it.
    pub closes: bool,
}

impl Connection {
    pub async fn open(url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("an http URL");
        Self { stream: TcpStream::connect(address).await.expect("the proxy listens"), buffer: Vec::new() }
    }

    /// As [`open`](Self::open) where the other side may be gone.
    pub async fn try_open(url: &str) -> Option<Self> {
        let address = url.strip_prefix("http://").expect("an http URL");
        Some(Self { stream: TcpStream::connect(address).await.ok()?, buffer: Vec::new() })
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the proxy reads");
    }

    /// A POST with a length.
    pub async fn post(&mut self, path: &str, headers: &str, body: &[u8]) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: remora\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(head.as_bytes()).await;
        self.send(body).await;
    }

    /// Ends this side (FIN): nothing more is sent, an answer may still come.
    pub async fn end(&mut self) {
        self.stream.shutdown().await.expect("it was open");
    }

    /// Closes with a reset (RST).
    pub fn reset(self) {
        self.stream.set_zero_linger().expect("a socket");
    }

    /// Sends as long as the other side takes it: how much that was.
    pub async fn pour(&mut self, length: usize) -> usize {
        let piece = vec![b'x'; 64 << 10];
        let mut sent = 0;
        while sent < length {
            let n = piece.len().min(length - sent);
            if self.stream.write_all(&piece[..n]).await.is_err() {
                break;
            }
            sent += n;
        }
        sent
    }

    /// Reads exactly so many bytes.
    pub async fn take(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert!(self.more().await, "it closed after {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..n).collect()
    }

    /// Reads up to and with the empty line.
    pub async fn head(&mut self) -> String {
        self.read_until(b"\r\n\r\n").await;
        let end = self.buffer.windows(4).position(|w| w == b"\r\n\r\n").expect("just read");
        String::from_utf8(self.buffer.drain(..end + 4).collect()).expect("a head is text")
    }

    /// Reads until the other side ends, and gives what came.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the other side ends within `patience`; what came is kept.
    pub async fn ends_within(&mut self, patience: std::time::Duration) -> bool {
        timeout(patience, async {
            while matches!(self.stream.read_buf(&mut self.buffer).await, Ok(n) if n > 0) {}
        })
        .await
        .is_ok()
    }

    /// Reads until the buffer holds `needle`, and gives all that came so far.
    pub async fn read_until(&mut self, needle: &[u8]) -> Vec<u8> {
        let found = |buffer: &[u8]| buffer.windows(needle.len()).any(|w| w == needle);
        while !found(&self.buffer) {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            let n = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
            let n = n.unwrap_or_else(|_| {
                panic!("{:?} never came; so far {text:?}", String::from_utf8_lossy(needle))
            });
            assert_ne!(n.expect("the connection can be read"), 0, "the connection closed after {text:?}");
        }
        self.buffer.clone()
    }

    /// Sends as far as the other side takes it.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// What came and was not read yet.
    pub fn so_far(&self) -> &[u8] {
        &self.buffer
    }

    /// Sends a POST and reads its answer; none when the other side closed before the answer was whole.
    pub async fn try_post(&mut self, path: &str, body: &[u8]) -> Option<Answer> {
        let head = format!("POST {path} HTTP/1.1\r\nHost: remora\r\nContent-Length: {}\r\n\r\n", body.len());
        self.stream.write_all(&[head.as_bytes(), body].concat()).await.ok()?;
        while !self.buffer.windows(4).any(|w| w == b"\r\n\r\n") {
            if !self.more().await {
                return None;
            }
        }
        Some(self.answer().await).filter(|answer| answer.whole)
    }

    /// Reads a whole response.
    pub async fn answer(&mut self) -> Answer {
        self.read_until(b"\r\n\r\n").await;
        let end = self.buffer.windows(4).position(|w| w == b"\r\n\r\n").expect("just read");
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
        let field = |name: &str| {
            head.lines().find_map(|l| {
                l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
            })
        };
        let closes = field("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        let (body, whole) = if field("transfer-encoding").is_some() {
            self.chunks().await
        } else {
            let length: usize = field("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
            while self.buffer.len() < length && self.more().await {}
            let whole = self.buffer.len() >= length;
            let n = length.min(self.buffer.len());
            (self.buffer.drain(..n).collect(), whole)
        };
        Answer { status, body, whole, closes }
    }

    /// Waits for more bytes; false at the end.
    pub async fn more(&mut self) -> bool {
        match timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(n)) => n > 0,
            Ok(Err(_)) => false,
            Err(_) => panic!("nothing came"),
        }
    }

    async fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                    break at;
                }
                if !self.more().await {
                    return (body, false);
                }
            };
            let size = std::str::from_utf8(&self.buffer[..line]).expect("a chunk size");
            let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
            while self.buffer.len() < line + 2 + size + 2 {
                if !self.more().await {
                    body.extend(self.buffer.drain(..).skip(line + 2));
                    return (body, false);
                }
            }
            body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            self.buffer.drain(..line + 2 + size + 2);
            if size == 0 {
                return (body, true);
            }
        }
    }
}
