use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes_max: 1_024, headers_max: 8 };

fn scan(head: &str) -> Result<Progress, Rule> {
    HeadScanner::default().scan(head.as_bytes(), LIMITS)
}

#[test]
fn a_head_ends_where_it_ends_and_says_how_long_its_body_is() {
    let complete = |head: &str, framing| {
        let more = format!("{head}GET / HTTP/1.1\r\n");
        assert_eq!(scan(&more), Ok(Progress::Complete(head.len(), framing)), "{head:?}");
    };
    complete("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None);
    complete("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None);
    complete("GET / HTTP/1.0\r\n\r\n", Framing::None);
    complete("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n", Framing::Length(12));
    complete("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Framing::None);
    complete("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tChunked \r\n\r\n", Framing::Chunked);
    complete("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Upgrade\r\nUpgrade: websocket\r\n\r\n", Framing::Upgrade);
    complete("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", Framing::None);
    complete("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None);
    complete("GET HTTP://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None);
    complete("GET / HTTP/1.1\r\nHost: a\r\nX: \u{fc}\r\n\r\n", Framing::None);
}

#[test]
fn limits_are_kept_to_the_byte() {
    let head = |length: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(length - rest))
    };
    assert_eq!(scan(&head(1_024)), Ok(Progress::Complete(1_024, Framing::None)));
    assert_eq!(scan(&head(1_025)), Err(Rule::HeadTooLarge));
    assert_eq!(scan(&"G".repeat(1_024)), Err(Rule::HeadTooLarge), "also without an end of line");
    let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert!(matches!(scan(&many(7)), Ok(Progress::Complete(..))));
    assert_eq!(scan(&many(8)), Err(Rule::TooManyHeaders));
}

proptest! {
    #[test]
    fn the_verdict_does_not_depend_on_the_pieces(
        lines in proptest::collection::vec(prop_oneof![
            Just("Host: a"), Just("Content-Length: 5"), Just("Transfer-Encoding: chunked"), Just("X: y"),
            Just(" folded"), Just("Bad Name: x"), Just("Upgrade: websocket"), Just("Connection: upgrade"),
        ], 0..6),
        cuts in proptest::collection::vec(1_usize..9, 1..80),
    ) {
        let head = format!("POST / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        let whole = scan(&head);
        let mut scanner = HeadScanner::default();
        let (mut there, mut cuts) = (0, cuts.into_iter().cycle());
        let in_pieces = loop {
            there = (there + cuts.next().unwrap()).min(head.len());
            match scanner.scan(&head.as_bytes()[..there], LIMITS) {
                Ok(Progress::Partial) if there < head.len() => {}
                verdict => break verdict,
            }
        };
        prop_assert_eq!(in_pieces, whole);
    }

    /// Whatever is accepted, hyper's parser understands, and finds as long.
    #[test]
    fn what_is_accepted_is_what_another_parser_sees(bytes in proptest::collection::vec(prop_oneof![
        8 => proptest::sample::select(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n:;,\t x=%".to_vec()), 1 => any::<u8>()
    ], 0..120), prefix in any::<bool>()) {
        let mut head = if prefix { b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec() } else { Vec::new() };
        head.extend(bytes);
        let verdict = HeadScanner::default().scan(&head, LIMITS);
        if let Ok(Progress::Complete(length, _)) = verdict {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut fields);
            prop_assert_eq!(request.parse(&head), Ok(httparse::Status::Complete(length)));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _verdict = HeadScanner::default().scan(&bytes, LIMITS);
    }
}
