use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

fn stream(head_time: Duration) -> (StrictStream<DuplexStream>, DuplexStream, Arc<Said>) {
    let (ours, theirs) = duplex(64 << 10);
    let said = Arc::<Said>::default();
    let head = HeadLimits { bytes_max: 8_192, headers_max: 100 };
    (StrictStream::new(ours, StrictLimits { head, head_time }, Arc::clone(&said)), theirs, said)
}

const PATIENT: Duration = Duration::from_secs(10);
const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

/// Reads until so much has come.
async fn read(stream: &mut StrictStream<DuplexStream>, length: usize) -> Vec<u8> {
    let mut read = vec![0; length];
    stream.read_exact(&mut read).await.unwrap();
    read
}

#[tokio::test]
async fn what_is_in_order_passes_unchanged_in_whatever_pieces_it_comes() {
    let messages = [
        GET,
        b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        GET,
    ]
    .concat();
    for piece in [1, 2, 3, 7, 31, 1_000] {
        let (mut stream, mut client, said) = stream(PATIENT);
        let sent = messages.clone();
        let sending = tokio::spawn(async move {
            for piece in sent.chunks(piece) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        });
        assert_eq!(read(&mut stream, messages.len()).await, messages, "in pieces of {piece}");
        assert_eq!((0..4).find_map(|_| said.next_request()), None);
        drop(sending.await.unwrap());
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "and then it ends");
    }
}

#[tokio::test]
async fn a_refused_head_is_replaced_and_nothing_after_it_passes() {
    let (mut stream, mut client, said) = stream(PATIENT);
    client.write_all(GET).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\nHost: evil\n\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let passed = read(&mut stream, GET.len() + STAND_IN.len()).await;
    assert_eq!(passed, [GET, STAND_IN].concat());
    assert_eq!(said.next_request(), None, "the first request is served");
    assert_eq!(said.next_request(), Some(Rule::LineFeedAlone));
    client.write_all(GET).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0; 8])).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_body_that_breaks_a_rule_breaks_off_where_it_does() {
    let (mut stream, mut client, said) = stream(PATIENT);
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(&[&head[..], b"3\r\nabcX"].concat()).await.unwrap();
    let mut passed = Vec::new();
    let error = stream.read_to_end(&mut passed).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(passed.is_empty() || passed.starts_with(head), "what passed was in order");
    assert_eq!(said.next_request(), None);
    assert_eq!(said.body_rule(), Some(Rule::ChunkEnd));
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_refused() {
    let (mut stream, mut client, said) = stream(Duration::from_millis(20));
    client.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    assert_eq!(read(&mut stream, STAND_IN.len()).await, STAND_IN);
    assert_eq!(said.next_request(), Some(Rule::HeadTooSlow));
}

const ASKS: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn after_a_request_for_an_upgrade_nothing_is_read_before_it_is_answered() {
    for (next, what) in [(Next::Tunnel, &b"\x81\x03abc\n\n"[..]), (Next::Request, GET)] {
        let (mut stream, mut client, said) = stream(PATIENT);
        client.write_all(ASKS).await.unwrap();
        assert_eq!(read(&mut stream, ASKS.len()).await, ASKS);
        assert!(!said.has_early_bytes());
        client.write_all(what).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 8])).await;
        assert!(early.is_err() && said.has_early_bytes());
        said.decide(next);
        assert_eq!(read(&mut stream, what.len()).await, what, "{next:?}");
    }
}

#[tokio::test]
async fn what_a_refused_client_still_sends_is_read_so_that_it_gets_its_answer() {
    let (mut stream, mut client, _said) = stream(PATIENT);
    client.write_all(b"bad\r\n").await.unwrap();
    assert_eq!(read(&mut stream, STAND_IN.len()).await, STAND_IN);
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let closing = tokio::spawn(async move { stream.shutdown().await });
    // More than the pipe takes: somebody has to read it.
    client.write_all(&vec![b'x'; 128 << 10]).await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    drop(client);
    closing.await.unwrap().unwrap();
}
