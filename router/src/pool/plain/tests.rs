use http_body_util::BodyExt;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::heard::{Asked, connection, driven, heard};
use super::*;
use crate::pool::CellBody;
use crate::pool::alone::Alone;

fn read_text(text: &str, method: Method) -> Option<(u16, usize, u64)> {
    let came = Bytes::copy_from_slice(text.as_bytes());
    read(&came, &method).map(|(head, bytes, length)| (head.status().as_u16(), bytes, length))
}

#[test]
fn what_says_its_length_is_read_here() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\n\r\n";
    assert_eq!(read_text(&format!("{head}hello"), Method::GET), Some((200, head.len(), 5)));
    assert_eq!(read_text(head, Method::HEAD), Some((200, head.len(), 0)));
    for (status, length) in [("204 No Content", 0), ("304 Not Modified", 0), ("404 Not Found", 5)] {
        let head = head.replace("200 OK", status);
        let read = read_text(&head, Method::GET).unwrap();
        assert_eq!((read.0.to_string(), read.2), (status[..3].to_owned(), length));
    }
    assert!(
        read_text("HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", Method::GET).is_some()
    );
}

#[test]
fn everything_else_is_for_the_library() {
    for other in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",
        "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 Fine\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: c\r\ncontent-length: 5\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        assert_eq!(read_text(other, Method::GET), None, "{other:?}");
    }
    let many = (0..64).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    assert_eq!(read_text(&format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n{many}\r\n"), Method::GET), None);
}

#[test]
fn a_request_stands_as_the_library_writes_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let asked = Asked::new(Method::PUT);
        let mut written = Vec::new();
        for plainly in [true, false] {
            let (mut alone, mut theirs) = if plainly {
                let (plain, theirs) = connection(1_024);
                (Alone::Plain(Box::new(plain)), theirs)
            } else {
                driven(1_024).await
            };
            let pages = Pages::default();
            let sending = alone.send(&pages, Some(asked.whole(&[])), || asked.library());
            let reading = async {
                let mut came = Vec::new();
                while !came.ends_with(b"\r\n\r\n") {
                    theirs.read_buf(&mut came).await.unwrap();
                }
                came
            };
            tokio::select! {
                _ = sending => panic!("nobody has answered"),
                came = reading => written.push(String::from_utf8(came).unwrap()),
            }
        }
        assert_eq!(written[0], written[1]);
        assert_eq!(written[0], "PUT /a?b=c HTTP/1.1\r\nhost: a.example.com\r\nx-one: 1\r\nx-one: 2\r\n\r\n");
    });
}

#[tokio::test]
async fn a_body_that_is_here_goes_out_behind_its_head_however_little_is_taken_at_a_time() {
    for carried in [7, 1_024] {
        let (mut plain, mut theirs) = connection(carried);
        let (asked, pages) = (Asked::new(Method::POST), Pages::default());
        let body = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let cell = async {
            let mut came = Vec::new();
            while !came.ends_with(b"\r\n\r\nonetwo") {
                theirs.read_buf(&mut came).await.unwrap();
            }
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            theirs.write_all(&answer[..carried.min(answer.len())]).await.unwrap();
            theirs
        };
        let (said, _theirs) = tokio::join!(plain.send(&pages, asked.whole(&body)), cell);
        match said.unwrap() {
            Said::Plainly(response) => assert_eq!(response.status(), 204),
            // A socket that carries seven bytes does not bring a head in one piece.
            Said::Otherwise(came) => assert!(carried == 7 && !came.is_empty()),
        }
        assert!(plain.is_usable() || carried == 7);
    }
}

#[tokio::test]
async fn a_request_is_not_taken_by_a_connection_on_which_something_has_come_before_it() {
    let asked = Asked::new(Method::GET);
    for stray in ["", "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"] {
        let (mut plain, mut theirs) = connection(1_024);
        assert!(plain.is_usable());
        theirs.write_all(stray.as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let pages = Pages::default();
        let sent = plain.send(&pages, asked.whole(&[])).await;
        assert!(matches!(sent, Err(SendError::NotTaken(_))));
        let mut came = Vec::new();
        drop(plain);
        theirs.read_to_end(&mut came).await.unwrap();
        assert!(came.is_empty(), "nothing of it has gone out");
    }
}

#[tokio::test]
async fn more_than_was_announced_spoils_the_connection_and_not_the_answer() {
    let two = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad";
    let (plain, mut theirs) = connection(1_024);
    let (mut alone, pages, asked) = (Alone::Plain(Box::new(plain)), Pages::default(), Asked::new(Method::GET));
    let cell = async {
        theirs.read_buf(&mut Vec::new()).await.unwrap();
        theirs.write_all(two).await.unwrap();
    };
    let (sent, ()) = tokio::join!(alone.send(&pages, Some(asked.whole(&[])), || asked.library()), cell);
    let mut body = sent.unwrap().into_body();
    assert!(matches!(body, CellBody::Plain(_)));
    let piece = std::future::poll_fn(|cx| alone.poll_body(&pages, &mut body, cx)).await.unwrap().unwrap();
    assert_eq!(piece.into_data().unwrap(), "ok");
    assert_eq!(alone.is_settled(), Some(false));
    assert!(body.frame().await.is_none());
}

/// The library takes over in the middle of a request that has not gone out: the rest of it goes before the next one.
#[tokio::test]
async fn nothing_overtakes_what_is_left_of_a_request_that_was_answered_early() {
    let (plain, mut theirs) = connection(30);
    let (mut alone, pages) = (Alone::Plain(Box::new(plain)), Pages::default());
    let (first, second) = (Asked::new(Method::GET), Asked::new(Method::PUT));
    let wanted = [first.whole(&[]).message.0, second.whole(&[]).message.0].concat();
    let (read_on, told) = tokio::sync::oneshot::channel();
    let length = wanted.len();
    let cell = tokio::spawn(async move {
        let mut came = vec![0; 10];
        theirs.read_exact(&mut came).await.unwrap();
        theirs.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await.unwrap();
        told.await.unwrap();
        while came.len() < length {
            theirs.read_buf(&mut came).await.unwrap();
        }
        theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        came
    });
    let answer = alone.send(&pages, Some(first.whole(&[])), || first.library()).await.unwrap();
    let mut body = answer.into_body();
    while std::future::poll_fn(|cx| alone.poll_body(&pages, &mut body, cx)).await.is_some() {}
    read_on.send(()).unwrap();
    let answer = alone.send(&pages, None, || second.library()).await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(String::from_utf8(cell.await.unwrap()).unwrap(), String::from_utf8(wanted).unwrap());
}

/// A task that has used up what it may do at once still finds out that a connection is closed.
#[tokio::test]
async fn a_closed_connection_takes_no_request_from_a_task_that_has_done_much() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    drop(theirs);
    ours.readable().await.unwrap();
    let mut plain = Plain::new(ours, Counted(std::rc::Rc::new(std::cell::Cell::new(1))));
    while tokio::task::coop::has_budget_remaining() {
        tokio::task::coop::consume_budget().await;
    }
    let (pages, asked) = (Pages::default(), Asked::new(Method::POST));
    assert!(!plain.is_usable(), "by whoever looks first");
    let sent = plain.send(&pages, asked.whole(&[])).await;
    assert!(matches!(sent, Err(SendError::NotTaken(_))));
}

/// Status lines, fields and bodies of which answers are put together, most of them such as cells send.
const STATUS: [&str; 9] = [
    "200 OK",
    "200 OK",
    "404 Not Found",
    "204 No Content",
    "304 Not Modified",
    "200 Fine",
    "100 Continue\r\n\r\nHTTP/1.1 200 OK",
    "103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 201 Created",
    "599 ",
];
const FIELDS: [&str; 20] = [
    "content-length: 5",
    "content-length: 5",
    "Content-Length:5",
    "content-length:  5  ",
    "content-length: 05",
    "content-length: 0",
    "content-length: 7",
    "content-length: +5",
    "content-length: 5, 5",
    "content-length: five",
    "transfer-encoding: chunked",
    "transfer-encoding: gzip",
    "connection: close",
    "connection: keep-alive",
    "Connection: x, y",
    "x-a: \u{e9}t\u{e9}",
    "X-A: ",
    "set-cookie: a=1",
    "set-cookie: b=2",
    "x y: 1",
];
const BODIES: [&str; 6] = ["hello", "hello", "", "hel", "5\r\nhello\r\n0\r\n\r\n", "hello, and more"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    /// The library is the measure of what is read here: it hears the same of whatever a cell says, however it comes.
    #[test]
    fn the_same_is_heard_with_and_without_the_library(
        method in select(vec![Method::GET, Method::GET, Method::HEAD, Method::PUT]),
        status in select(&STATUS[..]),
        fields in proptest::collection::vec(select(&FIELDS[..]), 0..4),
        body in select(&BODIES[..]),
        cuts in proptest::collection::vec(0..100_usize, 0..3),
        carried in select(vec![1_024, 1_024, 30]),
        closes: bool,
    ) {
        let mut text = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for field in fields {
            text.extend(format!("{field}\r\n").into_bytes());
        }
        text.extend(format!("\r\n{body}").into_bytes());
        let mut pieces = vec![&text[..]];
        for cut in cuts {
            let last = pieces.pop().unwrap();
            let (piece, rest) = last.split_at(cut.min(last.len()));
            pieces.extend([piece, rest]);
        }
        let expected = heard(false, &method, &pieces, carried, closes);
        prop_assert_eq!(heard(true, &method, &pieces, carried, closes), expected);
    }
}
