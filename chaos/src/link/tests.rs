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

/// When so many pieces arrive that are sent one after the other on one connection.
fn schedule(lane: &Lane, pieces: usize, bytes: usize) -> Vec<Instant> {
    let mut last = Instant::now();
    (0..pieces)
        .map(|_| {
            last = lane.due(last, bytes);
            last
        })
        .collect()
}

fn lossy() -> Condition {
    let ms = Duration::from_millis;
    Condition { delay: ms(50), jitter: ms(40), loss_percent: 30, ..Condition::default() }
}

#[test]
fn pieces_of_a_connection_arrive_in_order_and_late_and_what_is_lost_is_counted() {
    let (lane, began) = (Lane::seeded(7), Instant::now());
    lane.set(lossy());
    let due = schedule(&lane, 200, 100);
    assert!(due.is_sorted() && due[0] >= began + Duration::from_millis(50));
    assert!(due[199] >= began + Duration::from_millis(50) + RETRANSMISSION);
    assert!((30..90).contains(&lane.lost()), "{} of 200", lane.lost());
    assert_eq!(lane.overtaken(), 0, "within a connection nothing overtakes");
}

#[test]
fn what_is_lost_follows_the_seed() {
    let of = |seed| {
        let lane = Lane::seeded(seed);
        lane.set(lossy());
        assert_eq!(schedule(&lane, 50, 100).len(), 50);
        lane.lost()
    };
    let lost: Vec<u64> = (0..20).map(of).collect();
    assert_eq!(lost, (0..20).map(of).collect::<Vec<_>>());
    assert!(lost.iter().any(|other| *other != lost[0]), "{lost:?}");
}

#[test]
fn pieces_of_two_connections_overtake_each_other() {
    let lane = Lane::seeded(7);
    lane.set(lossy());
    let (mut one, mut other) = (Instant::now(), Instant::now());
    for _ in 0..50 {
        one = lane.due(one, 100);
        other = lane.due(other, 100);
    }
    assert!(lane.overtaken() > 0);
}

#[test]
fn lanes_of_one_pipe_share_its_width() {
    let (pipe, lanes) = (Pipe::new(10_000), [Lane::default(), Lane::default()]);
    lanes.iter().for_each(|lane| lane.narrow(Some(pipe.clone())));
    let began = Instant::now();
    let due: Vec<Instant> = (0..10).map(|number| lanes[number % 2].due(began, 1_000)).collect();
    assert_eq!(due[9] - due[0], Duration::from_millis(900), "ten thousand bytes a second over both");
    lanes[0].narrow(None);
    assert!(lanes[0].due(began, 1_000) < due[0]);
}
