use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// An upstream that answers each request with the pieces that a script gives for it.
pub struct Upstream {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    /// Connections that the proxy closed while an answer was under way.
    cancelled: Arc<Mutex<usize>>,
    written: Arc<Mutex<usize>>,
}

/// A request as its bytes came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Request line and headers, without the empty line.
    pub head: String,
    /// As on the wire: chunks stay chunks.
    pub body: Vec<u8>,
}

/// What the upstream does next.
#[derive(Clone)]
pub enum Piece {
    Send(Vec<u8>),
    /// Waits until the test opens the gate.
    Wait(Gate),
    Pause(std::time::Duration),
    /// Closes the connection.
    Cut,
    /// Closes it with a reset (RST).
    Reset,
    /// Reads these bytes, and fails the test at others.
    Take(Vec<u8>),
    /// Sends back what comes, until the other side ends; then ends, too.
    Echo,
    /// Ends this side (FIN); the other may go on.
    End,
    /// Reads until the proxy closes the connection.
    UntilClosed,
}

/// Something that a test opens once.
#[derive(Clone, Default)]
pub struct Gate(Arc<Notify>);

impl Gate {
    pub fn open(&self) {
        self.0.notify_one();
    }

    pub(super) async fn opened(&self) {
        self.0.notified().await;
    }
}

type Script = dyn Fn(&Request) -> Vec<Piece> + Send + Sync;

impl Upstream {
    pub async fn start(script: impl Fn(&Request) -> Vec<Piece> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let upstream = Self {
            address: listener.local_addr().expect("a bound address"),
            requests: Arc::default(),
            cancelled: Arc::default(),
            written: Arc::default(),
        };
        let (requests, cancelled, written) =
            (upstream.requests.clone(), upstream.cancelled.clone(), upstream.written.clone());
        let script: Arc<Script> = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (requests, cancelled, script, written) =
                    (requests.clone(), cancelled.clone(), script.clone(), written.clone());
                tokio::spawn(async move { converse(stream, &script, &requests, &cancelled, &written).await });
            }
        });
        upstream
    }

    /// An upstream that gives every request the same answer.
    pub async fn always(answer: Vec<u8>) -> Self {
        Self::start(move |_| vec![Piece::Send(answer.clone())]).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no test panics here").clone()
    }

    pub fn cancelled(&self) -> usize {
        *self.cancelled.lock().expect("no test panics here")
    }

    /// Bytes of answers that the system took.
    pub fn written(&self) -> usize {
        *self.written.lock().expect("no test panics here")
    }
}

async fn converse(
    mut stream: TcpStream,
    script: &Arc<Script>,
    requests: &Mutex<Vec<Request>>,
    cancelled: &Mutex<usize>,
    written: &Mutex<usize>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        requests.lock().expect("no test panics here").push(request.clone());
        for piece in script(&request) {
            match piece {
                Piece::Send(bytes) => {
                    for part in bytes.chunks(64 << 10) {
                        if stream.write_all(part).await.is_err() {
                            *cancelled.lock().expect("no test panics here") += 1;
                            return;
                        }
                        *written.lock().expect("no test panics here") += part.len();
                    }
                }
                Piece::Wait(gate) => gate.opened().await,
                Piece::Pause(span) => tokio::time::sleep(span).await,
                Piece::Cut => return,
                Piece::Reset => {
                    stream.set_zero_linger().expect("a socket");
                    return;
                }
                Piece::Take(expected) => {
                    while buffer.len() < expected.len() {
                        let n = stream.read_buf(&mut buffer).await.unwrap_or(0);
                        assert_ne!(n, 0, "only {:?} came", String::from_utf8_lossy(&buffer));
                    }
                    let got: Vec<u8> = buffer.drain(..expected.len()).collect();
                    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
                }
                Piece::Echo => {
                    loop {
                        if stream.write_all(&buffer).await.is_err() {
                            break;
                        }
                        buffer.clear();
                        if !matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                            break;
                        }
                    }
                    *cancelled.lock().expect("no test panics here") += 1;
                    return;
                }
                Piece::End => stream.shutdown().await.expect("it was open"),
                Piece::UntilClosed => {
                    let mut rest = [0; 1024];
                    while let Ok(n) = stream.read(&mut rest).await {
                        if n == 0 {
                            break;
                        }
                    }
                    *cancelled.lock().expect("no test panics here") += 1;
                    return;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    buffer.drain(..head_end + 4);
    let field = |name: &str| {
        head.lines().find_map(|l| {
            l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
        })
    };
    // Says that the script wants to begin before the body is there.
    let body = if field("x-early").is_some() {
        Vec::new()
    } else if let Some(length) = field("content-length") {
        let length: usize = length.parse().expect("a length");
        while buffer.len() < length {
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
        buffer.drain(..length).collect()
    } else if field("transfer-encoding").is_some() {
        loop {
            if let Some(at) = buffer.windows(5).position(|w| w == b"0\r\n\r\n") {
                break buffer.drain(..at + 5).collect();
            }
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
    } else {
        Vec::new()
    };
    Some(Request { head, body })
}
