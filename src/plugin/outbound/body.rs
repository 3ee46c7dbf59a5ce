//! The body of a response on its way to a guest: counted, timed, and ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;

use super::failure;
use crate::plugin::journal::{Fields, Journal, OpenSpan};

/// Hands on what comes until it is too much or takes too long, and holds the
/// request's permits as long as the connection may be in use.
pub(super) struct Limited {
    inner: reqwest::Body,
    received: u64,
    max: u64,
    between: Duration,
    /// Armed while the guest waits; boxed only then.
    waiting: Option<Pin<Box<Sleep>>>,
    failed: Option<String>,
    span: (Arc<Journal>, OpenSpan),
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Limited {
    pub(super) const fn new(
        inner: reqwest::Body,
        max: u64,
        between: Duration,
        permits: Vec<OwnedSemaphorePermit>,
        span: (Arc<Journal>, OpenSpan),
    ) -> Self {
        Self {
            inner,
            received: 0,
            max,
            between,
            waiting: None,
            failed: None,
            span,
            _permits: permits,
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.failed = Some(error.to_string());
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.failed.is_some() {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            let between = self.between;
            let waiting = self.waiting.get_or_insert_with(|| {
                Box::pin(tokio::time::sleep_until(Instant::now() + between))
            });
            ready!(waiting.as_mut().poll(cx));
            return self.fail(Error::ConnectionReadTimeout);
        };
        self.waiting = None;
        match frame {
            None => Poll::Ready(None),
            Some(Err(cause)) => {
                let error = failure::classify_body(&cause);
                self.fail(error)
            }
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.received = self.received.saturating_add(bytes);
                if self.received > self.max {
                    let max = self.max;
                    return self.fail(Error::HttpResponseBodySize(Some(max)));
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let mut fields = Fields::from([("bytes".to_owned(), self.received.to_string())]);
        if let Some(error) = self.failed.take() {
            fields.insert("error".to_owned(), error);
        }
        let (journal, span) = &self.span;
        journal.close(*span, fields);
    }
}
