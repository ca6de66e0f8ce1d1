//! What is heard of a cell over a connection, with the library and without it: for a test and a fuzzer, which see that it is
//! the same.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{Counted, Pages, Plain, Whole};
use crate::body::Upload;
use crate::pool::alone::Alone;
use crate::pool::driven::Driven;
use crate::pool::{SendError, Sent};

/// How often each side is asked whether it has got further. Nothing here takes time.
const TURNS: usize = 1_024;
/// The same, for what a cell says behind its answer.
const TURNS_AFTER: usize = 16;

/// A connection that carries so many bytes at a time.
pub(super) fn connection(carried: usize) -> (Plain, DuplexStream) {
    let (ours, theirs) = duplex(carried);
    (Plain::new(ours, Counted(Rc::new(Cell::new(1)))), theirs)
}

/// The same, which the library has.
pub(super) async fn driven(carried: usize) -> (Alone, DuplexStream) {
    let (plain, theirs) = connection(carried);
    let driven = Driven::take_over(plain, None).await;
    (Alone::Driven(Box::new(driven.expect("there is nothing that can fail yet"))), theirs)
}

/// A request.
pub(super) struct Asked {
    method: Method,
    target: Uri,
    headers: HeaderMap,
}

impl Asked {
    pub(super) fn new(method: Method) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in [("host", "a.example.com"), ("x-one", "1"), ("x-one", "2")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Self { method, target: Uri::from_static("/a?b=c"), headers }
    }

    /// As it is written.
    pub(super) fn whole(&self, body: &[bytes::Bytes]) -> Whole {
        let mut message = Pages::default().message(&self.method, &self.target);
        for (name, value) in &self.headers {
            message.field(name, value);
        }
        message.body(body);
        Whole { method: self.method.clone(), message }
    }

    /// For the library.
    pub(super) fn library(&self) -> Request<Sent> {
        let mut request = Request::new(Upload::default().attempt(None));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// All that can be told of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    status: Option<u16>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    /// None: it is still waited for.
    end: Option<End>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Another request may follow, or not.
    Whole {
        usable: bool,
    },
    Broken,
}

/// Asks, and listens to the end.
async fn hear(mut alone: Alone, asked: &Asked, heard: &RefCell<Heard>) {
    let pages = Pages::default();
    let end = |end| heard.borrow_mut().end = Some(end);
    let response = match alone.send(&pages, Some(asked.whole(&[])), || asked.library()).await {
        Ok(response) => response,
        Err(SendError::Broken(_)) => return end(End::Broken),
        Err(SendError::NotTaken(error)) => panic!("the request has gone out: {error}"),
    };
    let (head, mut body) = response.into_parts();
    heard.borrow_mut().status = Some(head.status.as_u16());
    for (name, value) in &head.headers {
        heard.borrow_mut().headers.push((name.to_string(), value.as_bytes().to_vec()));
    }
    while !body.is_end_stream() {
        match std::future::poll_fn(|cx| alone.poll_body(&pages, &mut body, cx)).await {
            Some(Ok(frame)) => heard.borrow_mut().body.extend(frame.into_data().unwrap_or_default()),
            Some(Err(_)) => return end(End::Broken),
            None => break,
        }
    }
    // What the cell still says is said by then.
    for _ in 0..TURNS_AFTER {
        alone.is_usable();
        turn().await;
    }
    end(End::Whole { usable: alone.is_usable() });
}

/// Answers with these pieces, once it has been asked, and then closes or waits.
async fn answer(mut theirs: DuplexStream, pieces: &[&[u8]], closes: bool) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let read = theirs.read_buf(&mut asked).await.unwrap_or(0);
        assert!(read > 0, "the request has not come whole: {:?}", String::from_utf8_lossy(&asked));
    }
    for piece in pieces {
        // Who does not listen any more need not hear the rest.
        let _gone = theirs.write_all(piece).await;
        turn().await;
    }
    if !closes {
        std::future::pending::<()>().await;
    }
}

/// Lets the other side have a turn.
async fn turn() {
    let mut had = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut had, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// What is heard of a cell that says these pieces to such a request.
pub(crate) fn heard(plainly: bool, method: &Method, pieces: &[&[u8]], carried: usize, closes: bool) -> Heard {
    let (asked, heard) = (Asked::new(method.clone()), RefCell::default());
    let (alone, theirs) = if plainly {
        let (plain, theirs) = connection(carried);
        (Alone::Plain(Box::new(plain)), theirs)
    } else {
        driven(carried).now_or_never().expect("nothing is waited for")
    };
    {
        let (mut hearing, mut answering) =
            (pin!(hear(alone, &asked, &heard)), Some(Box::pin(answer(theirs, pieces, closes))));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..TURNS {
            if hearing.as_mut().poll(&mut cx).is_ready() {
                break;
            }
            if answering.as_mut().is_some_and(|answering| answering.as_mut().poll(&mut cx).is_ready()) {
                answering = None;
            }
        }
    }
    heard.into_inner()
}
