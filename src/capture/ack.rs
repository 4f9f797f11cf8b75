use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::recorder::Recorder;

/// Waits for a record to be safe, but not for ever.
#[derive(Debug)]
pub(super) struct Waiting {
    receiver: oneshot::Receiver<()>,
    /// Made when there is something to wait for.
    timeout: Option<Pin<Box<Sleep>>>,
    recorder: Recorder,
}

impl Waiting {
    pub fn new(receiver: oneshot::Receiver<()>, recorder: Recorder) -> Self {
        Self { receiver, timeout: None, recorder }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error says that the record is lost: nothing to wait for either.
        if Pin::new(&mut self.receiver).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let patience = self.recorder.ack_timeout();
        let timeout = self.timeout.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(timeout.as_mut().poll(cx));
        self.recorder.waited_in_vain();
        Poll::Ready(())
    }
}
