//! A member that nobody reaches for a while, and that reaches everybody: it asks for votes all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cell_store::{Bounds, Timers};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Cluster, Node, create_cell, eventually};

/// What stands before a node. While it is shut, nothing comes through in either direction.
struct Door {
    address: SocketAddr,
    shut: Arc<AtomicBool>,
    /// Ends the connections of now.
    cut: Arc<std::sync::Mutex<CancellationToken>>,
    _hall: AbortOnDrop,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Door {
    async fn before(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shut = Arc::new(AtomicBool::new(false));
        let cut = Arc::new(std::sync::Mutex::new(CancellationToken::new()));
        let (is_shut, now) = (Arc::clone(&shut), Arc::clone(&cut));
        let hall = tokio::spawn(async move {
            loop {
                let (mut outside, _) = listener.accept().await.unwrap();
                // Looked at behind the token, so that a door that is shut in between ends this one, too.
                let ends = now.lock().unwrap().clone();
                if is_shut.load(Ordering::SeqCst) {
                    continue;
                }
                tokio::spawn(ends.run_until_cancelled_owned(async move {
                    if let Ok(mut inside) = TcpStream::connect(behind).await {
                        // However it ends, both sides hear of it.
                        drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await);
                    }
                }));
            }
        });
        Self { address, shut, cut, _hall: AbortOnDrop(hall) }
    }

    fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    fn open(&self) {
        self.shut.store(false, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_cut_off_disturbs_nobody_when_it_is_back() {
    let ms = Duration::from_millis;
    // So long that a busy machine makes nobody stand for election.
    let timers = Timers { election_min: ms(500), election_max: ms(1_000), ..Timers::default() };
    let (mut doors, mut nodes) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Door::before(listener.local_addr().unwrap()).await;
        nodes.push(Node::start_behind(door.address, listener, Bounds::default(), timers).await);
        doors.push(door);
    }
    let cluster = Cluster::of(nodes).await;
    cluster.submit(1, create_cell(1)).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let term = cluster.nodes[leader].store().status().term;

    doors[away].shut();
    let misses = async || cluster.nodes[leader].store().members();
    eventually("it is missed", async || {
        let address = cluster.nodes[away].address.to_string();
        let member = misses().await.into_iter().find(|member| member.address == address).unwrap();
        // A member waits for the leader's lease to run out, and then for its election timer.
        member.heard.is_none_or(|ago| ago > timers.election_max * 9 / 4).then_some(())
    })
    .await;
    // By now it has asked whether anybody would vote for it, and nobody would.
    let reply = cluster.submit(2, create_cell(2)).await;
    assert_eq!(cluster.nodes[away].store().status().term, term, "it stands for no election that it cannot win");
    assert!(cluster.nodes[away].store().view(|fleet| fleet.head().revision) < reply.revision);

    doors[away].open();
    cluster.agree_on(reply.revision).await;
    let last = cluster.submit(3, create_cell(3)).await;
    cluster.agree_on(last.revision).await;
    assert_eq!(cluster.leader().await, leader);
    for node in &cluster.nodes {
        assert_eq!(node.store().status().term, term, "nobody had to be elected anew");
    }
}
