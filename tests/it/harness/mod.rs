//! What the integration tests share: an upstream that does as it is told, a client that sees every byte, a Remora.

mod client;
mod connect;
#[cfg(target_os = "linux")]
mod disk;
mod ledger;
mod process;
mod sidecar;
mod tls;
mod upstream;

pub use client::{Answer, Connection};
pub use connect::{ConnectProxy, tls_over, tunnel};
#[cfg(target_os = "linux")]
pub use disk::Disk;
pub use ledger::{Seen, answer_to, echo, is_sound, question, recorded, scatter};
pub use process::{Launch, Process, remora, with_data};
pub use sidecar::Sidecar;
pub use tls::{Authority, Offer, Part, Peer};
pub use upstream::{Gate, Piece, Request, Upstream};

use std::time::Duration;

/// Nothing that a test waits for takes this long, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds; fails the test when it never does.
pub async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An HTTP/1.1 response with a length.
pub fn plain(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The head of an event stream in chunks.
pub const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One chunk of a chunked body.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A chat completion as an upstream would answer it.
pub fn completion(id: &str, text: &str) -> Vec<u8> {
    serde_json::json!({
        "id": id,
        "object": "chat.completion",
        "model": "test-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    })
    .to_string()
    .into_bytes()
}
