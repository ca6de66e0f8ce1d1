use std::time::Duration;

use super::*;

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (mut read, mut write) = stream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
        }
    });
    address
}

async fn answer(stream: &mut TcpStream) -> Option<u8> {
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut byte)).await;
    read.ok().map(|read| read.map(|_| byte[0]).unwrap())
}

#[tokio::test]
async fn a_cut_link_keeps_connections_and_carries_nothing_until_it_heals() {
    let target = echo().await.to_string();
    let link = Link::open(&target).await.unwrap();
    let mut old = TcpStream::connect(link.address()).await.unwrap();
    old.write_all(b"a").await.unwrap();
    assert_eq!(answer(&mut old).await, Some(b'a'));

    link.cut();
    old.write_all(b"b").await.unwrap();
    let mut new = TcpStream::connect(link.address()).await.unwrap();
    new.write_all(b"c").await.unwrap();
    assert_eq!((answer(&mut old).await, answer(&mut new).await), (None, None));
    assert_eq!(link.carried_bytes(), 2);

    link.heal();
    assert_eq!((answer(&mut old).await, answer(&mut new).await), (Some(b'b'), Some(b'c')));
}

#[tokio::test]
async fn a_link_ends_when_it_is_dropped() {
    let target = echo().await.to_string();
    let link = Link::open(&target).await.unwrap();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    stream.write_all(b"a").await.unwrap();
    assert_eq!(answer(&mut stream).await, Some(b'a'));
    drop(link);
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn of_two_lanes_one_may_be_cut_and_what_met_it_is_counted() {
    let target = echo().await.to_string();
    let (there, back) = (Lane::default(), Lane::default());
    let lanes = (there.clone(), back.clone());
    let front = Front::open(&target, Arc::new(move |_, _| Some(lanes.clone()))).await.unwrap();
    let mut stream = TcpStream::connect(front.address()).await.unwrap();
    stream.write_all(b"a").await.unwrap();
    assert_eq!(answer(&mut stream).await, Some(b'a'));

    back.set(Condition { open: false, ..Condition::default() });
    stream.write_all(b"b").await.unwrap();
    assert_eq!(answer(&mut stream).await, None);
    assert_eq!((there.carried_bytes(), back.carried_bytes()), (2, 1), "it arrived, its answer did not");
    assert_eq!((there.held(), back.held()), (0, 1));
}

#[test]
fn pieces_arrive_in_order_late_and_at_the_lanes_rate() {
    let ms = Duration::from_millis;
    let condition = Condition { delay: ms(50), jitter: ms(40), loss_percent: 30, ..Condition::default() };
    let (mut schedule, began) = (Schedule::new(), Instant::now());
    let due: Vec<Instant> = (0..200).map(|_| schedule.due(&condition, 100)).collect();
    assert!(due.is_sorted() && due[0] >= began + ms(50));
    assert!(due[199] >= began + ms(50) + RETRANSMISSION, "none of 200 pieces was lost");

    let narrow = Condition { bytes_per_second: Some(10_000), ..Condition::default() };
    let mut schedule = Schedule::new();
    let due: Vec<Instant> = (0..10).map(|_| schedule.due(&narrow, 1_000)).collect();
    assert_eq!(due[9] - due[0], ms(900));
}
