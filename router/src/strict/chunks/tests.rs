use proptest::prelude::*;

use super::*;

fn scan(body: &[u8]) -> Result<(usize, bool), Rule> {
    BodyScanner::new(Framing::Chunked).unwrap().scan(body)
}

#[test]
fn a_body_ends_with_its_length_or_its_last_chunk() {
    let mut body = BodyScanner::new(Framing::Length(5)).unwrap();
    assert_eq!(body.scan(b"abc"), Ok((3, false)));
    assert_eq!(body.scan(b"deGET"), Ok((2, true)));
    assert_eq!(scan(b"0\r\n\r\nGET"), Ok((5, true)));
    assert_eq!(scan(b"3\r\nabc\r\n00\r\n\r\n"), Ok((14, true)));
    assert_eq!(scan(b"A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"), Ok((30, true)));
    assert_eq!(scan(b"3\r\nab"), Ok((5, false)));
}

#[test]
fn chunks_that_others_read_differently_are_refused() {
    for (body, rule) in [
        ("3\nabc\r\n", Rule::LineFeedAlone),
        ("3\r\nabc\n", Rule::ChunkEnd),
        ("3\r\nabcd\r\n", Rule::ChunkEnd),
        ("3\rabc", Rule::CarriageReturnAlone),
        ("\r\n", Rule::ChunkSize),
        ("g\r\n", Rule::ChunkSize),
        ("-1\r\n", Rule::ChunkSize),
        ("+1\r\n", Rule::ChunkSize),
        (" 1\r\n", Rule::ChunkSize),
        ("0x3\r\n", Rule::ChunkSize),
        ("3_0\r\n", Rule::ChunkSize),
        ("00000000000000000\r\n", Rule::ChunkSize),
        ("3 \r\n", Rule::ChunkExtension),
        ("3\t\r\n", Rule::ChunkExtension),
        ("3;a=b\r\n", Rule::ChunkExtension),
        ("3;\nxx\r\n", Rule::ChunkExtension),
        ("0\r\nX: y\n\r\n", Rule::LineFeedAlone),
        ("0\r\n\rX", Rule::CarriageReturnAlone),
        ("0\r\nno colon\r\n\r\n", Rule::Trailer),
        ("0\r\n X: folded\r\n\r\n", Rule::Trailer),
        ("0\r\nContent-Length: 3\r\n\r\n", Rule::TrailerForbidden),
        ("0\r\nX-Tenant-ID: t\r\n\r\n", Rule::TrailerForbidden),
        ("0\r\nx_tenant_id: t\r\n\r\n", Rule::TrailerForbidden),
        ("0\r\nCell-Epoch: 9\r\n\r\n", Rule::TrailerForbidden),
    ] {
        assert_eq!(scan(body.as_bytes()), Err(rule), "{body:?}");
    }
}

#[test]
fn trailers_have_limits() {
    let lines = |count: usize| format!("0\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert!(matches!(scan(lines(32).as_bytes()), Ok((_, true))));
    assert_eq!(scan(lines(33).as_bytes()), Err(Rule::TrailersTooLarge));
    let long = format!("0\r\nX: {}\r\n\r\n", "y".repeat(TRAILER_BYTES_MAX));
    assert_eq!(scan(long.as_bytes()), Err(Rule::TrailersTooLarge));
}

proptest! {
    #[test]
    fn well_formed_bodies_in_any_pieces_end_where_they_end(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..6),
        piece in 1_usize..20,
    ) {
        let mut body = Vec::new();
        for chunk in &chunks {
            body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            body.extend(chunk);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        let mut scanner = BodyScanner::new(Framing::Chunked).unwrap();
        let mut at = 0;
        let mut with_next = body.clone();
        with_next.extend(b"GET / HTTP/1.1");
        loop {
            let end = (at + piece).min(with_next.len());
            let (taken, ended) = scanner.scan(&with_next[at..end]).unwrap();
            at += taken;
            if ended {
                break;
            }
            prop_assert!(taken > 0);
        }
        prop_assert_eq!(at, body.len());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _verdict = scan(&bytes);
    }
}
