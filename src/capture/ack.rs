use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::oneshot::{self, error::TryRecvError};
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

/// With hardly anything else to do, the answer is looked for this long before the thread turns away: sleeping and being
/// woken takes longer than the record.
const LOOK: Duration = Duration::from_micros(30);

impl Waiting {
    pub fn new(receiver: oneshot::Receiver<()>, recorder: Recorder) -> Self {
        Self { receiver, timeout: None, recorder }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timeout.is_none() && self.recorder.is_quiet() {
            let began = Instant::now();
            while matches!(self.receiver.try_recv(), Err(TryRecvError::Empty)) && began.elapsed() < LOOK {
                std::hint::spin_loop();
            }
            if self.receiver.is_terminated() {
                return Poll::Ready(());
            }
        }
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
