use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::Terms;

/// A request's body that breaks when its client says nothing for too long. Time in which nobody asks for more does not
/// count: then it is the upstream that is slow.
#[derive(Debug)]
pub struct ClientBody {
    inner: Incoming,
    terms: Arc<Terms>,
    /// None until the body had to be waited for: most come with their head.
    wait: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    /// When the present wait began.
    since: Option<Instant>,
    /// Rings at the earliest time that may matter; set anew only when it has rung.
    bell: Pin<Box<Sleep>>,
}

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error(transparent)]
    Slow(#[from] Slow),
}

/// The client sent nothing of a request's body for too long.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client sent nothing of the request's body for {}", humantime::format_duration(*.0))]
pub struct Slow(pub Duration);

impl Slow {
    /// Finds it among the causes of an error.
    pub(in crate::proxy) fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |e| e.source()).find_map(|e| {
            let body = e.downcast_ref::<BodyError>().and_then(|e| match e {
                BodyError::Slow(slow) => Some(*slow),
                BodyError::Broken(_) => None,
            });
            body.or_else(|| e.downcast_ref::<Self>().copied())
        })
    }
}

impl ClientBody {
    pub(in crate::proxy) fn new(inner: Incoming, terms: Arc<Terms>) -> Self {
        Self { inner, terms, wait: None }
    }
}

impl Wait {
    fn poll(&mut self, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.since.get_or_insert_with(Instant::now) + patience;
        while self.bell.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            self.bell.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            if let Some(wait) = &mut this.wait {
                wait.since = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let patience = this.terms.body_timeout;
        let wait = this.wait.get_or_insert_with(|| {
            let now = Instant::now();
            Wait { since: Some(now), bell: Box::pin(tokio::time::sleep_until(now + patience)) }
        });
        wait.poll(patience, cx).map(|()| {
            this.terms.slow_bodies.increment(1);
            Some(Err(Slow(patience).into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_silence_that_somebody_listens_to_counts() {
        let patience = Duration::from_secs(10);
        let begun = Instant::now();
        let bell = Box::pin(tokio::time::sleep(patience));
        let mut wait = Wait { since: None, bell };
        // Nobody asked before: the bell has rung, but the wait begins now.
        tokio::time::advance(Duration::from_secs(60)).await;
        poll_fn(|cx| wait.poll(patience, cx)).await;
        assert!(begun.elapsed() >= Duration::from_secs(70), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_slow_client_is_found_behind_other_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("the request failed")]
        struct Failed(#[source] BodyError);
        let error: Box<dyn std::error::Error> =
            Box::new(Failed(BodyError::Slow(Slow(Duration::from_secs(1)))));
        assert!(Slow::behind(error.as_ref()).is_some());
        assert!(Slow::behind(&std::io::Error::other("else")).is_none());
    }
}
