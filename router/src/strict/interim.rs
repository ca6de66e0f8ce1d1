//! Interim answers (1xx other than 100 and 101, RFC 9110, 15.2) on their way to an HTTP/1.1 client.
//!
//! hyper sends none, so they go past it, straight into the socket. That is sound at one moment alone: when everything that
//! hyper has written is flushed and the answer that they come before has not begun. The first holds whenever hyper flushes the
//! stream below it with nothing left of its own; the second because the service gives hyper the answer only once none waits.
//!
//! ```text
//! cell's 103 ─► push ─► queue (bounded) ─ hyper flushes, idle ─► socket ─► gone ─► the answer may follow
//! ```

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{HeaderMap, StatusCode};

/// Interim answers that wait at once, and bytes of one. What is more is left out, as a client that cannot take them would.
const WAITING_MAX: usize = 8;
const BYTES_MAX: usize = 16 << 10;

/// Those of one connection.
#[derive(Debug, Default)]
pub(crate) struct Interim {
    count: AtomicUsize,
    waiting: Mutex<VecDeque<Bytes>>,
    /// Whoever flushes the connection, and whoever waits for that.
    connection: AtomicWaker,
    service: AtomicWaker,
}

impl Interim {
    /// Takes one of a cell to the client. `headers` are clean of what belongs to a connection.
    pub(crate) fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let Some(text) = written(status, headers) else { return };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_MAX {
            waiting.push_back(text);
            self.count.store(waiting.len(), Ordering::Release);
            self.connection.wake();
        }
    }

    pub(super) fn next(&self) -> Option<Bytes> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).front().cloned()
    }

    /// So many bytes of the first one have gone.
    pub(super) fn sent(&self, bytes: usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = waiting.front_mut() else { return };
        let _gone = first.split_to(bytes.min(first.len()));
        if first.is_empty() {
            waiting.pop_front();
        }
        self.count.store(waiting.len(), Ordering::Release);
        if waiting.is_empty() {
            self.service.wake();
        }
    }

    /// Whether some wait; if not, whoever flushes is woken by the next.
    pub(super) fn waits(&self, cx: &Context<'_>) -> bool {
        self.connection.register(cx.waker());
        self.count.load(Ordering::Acquire) > 0
    }

    /// Done once none waits.
    pub(crate) async fn gone(&self) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        std::future::poll_fn(|cx| {
            self.service.register(cx.waker());
            if self.count.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// As it goes over the wire. None: it is not one that is passed on, or too long.
fn written(status: StatusCode, headers: &HeaderMap) -> Option<Bytes> {
    let passes = status.is_informational() && !matches!(status.as_u16(), 100 | 101);
    if !passes {
        return None;
    }
    let mut text = Vec::with_capacity(256);
    let reason = status.canonical_reason().unwrap_or("Interim");
    write!(text, "HTTP/1.1 {} {reason}\r\n", status.as_u16()).ok()?;
    for (name, value) in headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    (text.len() <= BYTES_MAX).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_no_interim_answer_is_not_passed_on_and_a_flood_is_bounded() {
        let (interim, mut headers) = (Interim::default(), HeaderMap::new());
        for status in [100, 101, 200, 404] {
            interim.push(StatusCode::from_u16(status).unwrap(), &headers);
        }
        assert!(interim.next().is_none());
        headers.insert("link", HeaderValue::from_static("</a.css>; rel=preload"));
        for _ in 0..100 {
            interim.push(StatusCode::EARLY_HINTS, &headers);
        }
        let text = interim.next().unwrap();
        assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
        interim.sent(10);
        assert_eq!(interim.next().unwrap(), &text[10..]);
        interim.sent(text.len() - 10);
        for _ in 1..WAITING_MAX {
            interim.sent(text.len());
        }
        assert!(interim.next().is_none());
        headers.insert("big", HeaderValue::from_str(&"x".repeat(BYTES_MAX)).unwrap());
        interim.push(StatusCode::EARLY_HINTS, &headers);
        assert!(interim.next().is_none());
    }
}
