use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A body whose beginning may have been looked at; what was seen comes again, in the same pieces.
#[derive(Debug)]
pub struct Peeked<B: Body> {
    seen: VecDeque<Result<Frame<Bytes>, B::Error>>,
    /// Bytes in `seen`.
    ahead: u64,
    inner: B,
}

impl<B: Body<Data = Bytes> + Unpin> Peeked<B> {
    /// A body that nobody has looked at.
    pub fn new(inner: B) -> Self {
        // An empty queue allocates nothing.
        Self { seen: VecDeque::new(), ahead: 0, inner }
    }

    /// Waits for the next piece and shows it; none at the end, at trailers, and where the body breaks off.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn peek(&mut self) -> Option<&Bytes> {
        let frame = poll_fn(|cx| Pin::new(&mut self.inner).poll_frame(cx)).await?;
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            self.ahead += data.len() as u64;
        }
        self.seen.push_back(frame);
        self.seen.back()?.as_ref().ok()?.data_ref()
    }
}

impl<B> Body for Peeked<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(frame) = self.seen.pop_front() else { return Pin::new(&mut self.inner).poll_frame(cx) };
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
            self.ahead -= data.len() as u64;
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.seen.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        if self.ahead > 0 {
            // In this order: the lower bound must never be above the upper one.
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper + self.ahead);
            }
            hint.set_lower(hint.lower() + self.ahead);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn what_was_seen_comes_again_and_the_length_stays_true() {
        let mut body = Peeked::new(Full::from("hello"));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(body.peek().await.map(|b| &b[..]), Some(&b"hello"[..]));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(!body.is_end_stream());
        assert!(body.peek().await.is_none());
        assert_eq!(body.collect().await.expect("whole").to_bytes(), "hello");
    }

    #[tokio::test]
    async fn a_break_that_was_seen_is_passed_on() {
        let mut body = Peeked::new(Torn(VecDeque::from([Ok("one"), Err("broken")])));
        assert!(body.peek().await.is_some());
        assert!(body.peek().await.is_none());
        assert_eq!(
            body.frame().await.and_then(Result::ok).and_then(|f| f.into_data().ok()),
            Some(Bytes::from("one"))
        );
        assert_eq!(body.frame().await.map(|f| f.err()), Some(Some("broken")));
    }

    struct Torn(VecDeque<Result<&'static str, &'static str>>);

    impl Body for Torn {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(self.0.pop_front().map(|next| next.map(|text| Frame::data(Bytes::from(text)))))
        }
    }
}
