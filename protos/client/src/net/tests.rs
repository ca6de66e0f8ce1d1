use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// Both ends: of the kernel's network, and of another one.
async fn pairs() -> [(Connection, Connection); 2] {
    let listener = Network::Kernel.listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let called = Network::Kernel.connect(&address).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let (one, other): (DuplexStream, DuplexStream) = tokio::io::duplex(4_096);
    [(called, accepted), (Connection::given(Box::new(one)), Connection::given(Box::new(other)))]
}

#[tokio::test]
async fn what_was_looked_at_can_still_be_read() {
    for (mut here, mut there) in pairs().await {
        here.write_all(b"abc").await.unwrap();
        there.readable().await.unwrap();
        let mut seen = [0; 2];
        assert_eq!((there.peek(&mut seen).await.unwrap(), &seen), (2, b"ab"));
        here.write_all(b"def").await.unwrap();
        let mut read = [0; 6];
        there.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcdef");
        here.shutdown().await.unwrap();
        assert_eq!(there.peek(&mut seen).await.unwrap(), 0, "nothing will come");
    }
}

#[tokio::test]
async fn a_reader_learns_that_its_connection_was_cut() {
    for (mut here, there) in pairs().await {
        let knife = here.knife().unwrap();
        let reading = tokio::spawn(async move {
            let mut byte = [0];
            here.read_exact(&mut byte).await
        });
        tokio::task::yield_now().await;
        knife.cut();
        assert!(reading.await.unwrap().is_err());
        drop(there);
    }
}

#[tokio::test]
async fn a_host_of_this_machine_has_its_clock() {
    let (before, now) = (SystemTime::now(), Host::default().now());
    assert!(now >= before && now <= SystemTime::now());
}
