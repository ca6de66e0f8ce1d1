//! Three nodes: agreement, change of leader, restart, snapshot to a node that was away.

use std::time::{Duration, Instant};

use cell_model::{Command, Fleet, Limits, Outcome, Revision};
use cell_store::{Bounds, ReadError, SubmitError, Timers};

use crate::fixture::{Cluster, create_cell, create_tenant, envelope, eventually};

fn records_of(fleets: &[Fleet]) -> Vec<Vec<cell_model::Change>> {
    fleets.iter().map(|fleet| fleet.records().collect()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_hold_the_same_and_a_follower_names_the_leader() {
    let cluster = Cluster::start(3, Bounds::default()).await;
    let reply = cluster.submit(1, create_cell(1)).await;
    assert!(matches!(reply.result, Ok(Outcome::Cell(_))), "{reply:?}");
    for number in 2..=20 {
        assert!(cluster.submit(number, create_tenant(number)).await.result.is_ok());
    }
    let fleets = cluster.agree_on(Revision(20)).await;
    assert_eq!(fleets[0], fleets[1]);
    assert_eq!(fleets[1], fleets[2]);
    assert_eq!(fleets[0].tenant_count(), 19);

    let leader = cluster.leader().await;
    let address = cluster.nodes[leader].address.to_string();
    for (index, node) in cluster.nodes.iter().enumerate().filter(|(index, _)| *index != leader) {
        let refused = node.store().submit(envelope(create_cell(99))).await.expect_err("a follower");
        assert_eq!(refused, SubmitError::NotLeader { leader: Some(address.clone()) }, "node {index}");
        let refused = node.store().read_index().await.expect_err("a follower");
        assert_eq!(refused, ReadError::NotLeader { leader: Some(address.clone()) });
        let status = node.store().status();
        assert!(status.initialized && !status.is_leader && status.members.len() == 3, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_submits_at_once_share_a_few_entries() {
    let cluster = Cluster::start(3, Bounds::default()).await;
    let leader = cluster.nodes[cluster.leader().await].store();
    let before = leader.status().last_log_index;
    let submits = (0..500).map(|number| leader.submit(envelope(create_cell(number))));
    let replies = futures::future::join_all(submits).await;
    let mut revisions: Vec<u64> = replies.into_iter().map(|reply| reply.unwrap().revision.get()).collect();
    let entries = leader.status().last_log_index - before;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=500).collect::<Vec<_>>(), "each command gets a revision of its own");
    assert!(entries <= 50, "500 commands took {entries} entries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_runs_once_also_on_the_next_leader() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let first = cluster.submit(7, create_cell(1)).await;
    assert_eq!(cluster.submit(7, create_cell(1)).await, first);
    let leader = cluster.leader().await;
    cluster.nodes[leader].crash().await;
    assert_eq!(cluster.submit(7, create_cell(1)).await, first);
    let other = cluster.submit(8, create_cell(1)).await;
    assert_eq!(other.result.unwrap_err().code(), "CELL_EXISTS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_leaders_crash_one_after_another() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let mut request = 0;
    for _ in 0..4 {
        for _ in 0..10 {
            request += 1;
            assert!(cluster.submit(request, create_cell(request)).await.result.is_ok());
        }
        let leader = cluster.leader().await;
        cluster.nodes[leader].crash().await;
        request += 1;
        assert!(cluster.submit(request, create_cell(request)).await.result.is_ok());
        cluster.nodes[leader].restart().await;
    }
    let revision = Revision(u64::try_from(request).unwrap());
    let fleets = cluster.agree_on(revision).await;
    assert_eq!(fleets.len(), 3);
    assert_eq!(fleets[0], fleets[1]);
    assert_eq!(fleets[1], fleets[2]);
    assert_eq!(fleets[0].records().count() as u128, request);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_in_order_hands_over_without_an_election_timeout() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    cluster.submit(1, create_cell(1)).await;
    let leader = cluster.leader().await;
    let others: Vec<_> =
        (0..3).filter(|index| *index != leader).map(|index| cluster.nodes[index].store().leadership()).collect();
    let term = others[0].borrow().term;
    let begin = Instant::now();
    cluster.nodes[leader].store().transfer_leader().await.unwrap();
    let handed_over = begin.elapsed();
    assert!(handed_over < Duration::from_millis(400), "it took {handed_over:?}");
    assert!(others.iter().any(|seen| seen.borrow().term > term));
    assert!(cluster.submit(2, create_cell(2)).await.result.is_ok());
    let leader = cluster.leader().await;
    cluster.nodes[leader].stop().await;
    assert!(cluster.submit(3, create_cell(3)).await.result.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_gets_a_snapshot_and_then_the_log() {
    let bounds = Bounds { snapshot_after: 40, log_kept: 10, ..Bounds::default() };
    let mut cluster = Cluster::start(3, bounds).await;
    cluster.submit(1, create_cell(1)).await;
    let away = (cluster.leader().await + 1) % 3;
    cluster.nodes[away].crash().await;
    for number in 2..=200 {
        assert!(cluster.submit(number, create_tenant(number)).await.result.is_ok());
    }
    let limits = Limits { moves_total: 3, ..Limits::default() };
    cluster.submit(201, Command::SetLimits(limits)).await;
    let leader = cluster.leader().await;
    let purged = eventually("the leader has purged its log", async || {
        let status = cluster.nodes[leader].store().status();
        (status.purged_index > 100).then_some(status.purged_index)
    })
    .await;
    cluster.nodes[away].restart().await;
    assert!(cluster.nodes[away].store().status().last_log_index < purged, "the log alone cannot help it");
    let mut feed = cluster.nodes[away].store().subscribe(None);
    let fleets = cluster.agree_on(Revision(201)).await;
    assert_eq!(fleets.len(), 3);
    assert_eq!(records_of(&fleets[..1]), records_of(&fleets[1..2]));
    assert_eq!(fleets[0], fleets[2]);
    // It watched while its state was replaced.
    let mut replica = crate::fixture::Replica::default();
    while !replica.equals(&fleets[0]) {
        let next = tokio::time::timeout(Duration::from_secs(10), feed.next()).await.expect("the watch goes on");
        replica.take(next.unwrap());
    }
    // And it keeps what it got.
    cluster.nodes[away].crash().await;
    cluster.nodes[away].restart().await;
    assert!(cluster.nodes[away].store().view(|fleet| fleet.head().revision) >= Revision(1));
    assert_eq!(cluster.agree_on(Revision(201)).await[away], fleets[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_answers_instead_of_hanging() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    cluster.submit(1, create_cell(1)).await;
    let leader = cluster.leader().await;
    for index in (0..3).filter(|index| *index != leader) {
        cluster.nodes[index].crash().await;
    }
    let store = cluster.nodes[leader].store();
    let begin = Instant::now();
    let answer = store.submit(envelope(create_cell(2))).await.expect_err("there is no majority");
    let is_told =
        |error: &SubmitError| matches!(error, SubmitError::NoQuorum { .. } | SubmitError::NotLeader { .. });
    assert!(is_told(&answer) || matches!(answer, SubmitError::Unknown { .. }), "{answer:?}");
    // Whoever waits behind entries that are stuck is sent away unproposed, before the deadline of a submit.
    let stuck = (0..10).map(|number| store.submit(envelope(create_cell(100 + number))));
    let behind = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begin = Instant::now();
        (store.submit(envelope(create_cell(50))).await, begin.elapsed())
    };
    let (_, (behind, waited)) = tokio::join!(futures::future::join_all(stuck), behind);
    assert!(behind.as_ref().is_err_and(is_told), "{behind:?}");
    assert!(waited < Duration::from_secs(4), "it took {waited:?}");
    let read = store.read_index().await.expect_err("there is no majority");
    assert!(matches!(read, ReadError::Unavailable { .. } | ReadError::NotLeader { .. }), "{read:?}");
    assert!(begin.elapsed() < Duration::from_secs(15), "it took {:?}", begin.elapsed());
    // What is known can still be looked at, and the majority comes back.
    assert!(store.view(|fleet| fleet.head().revision) >= Revision(1));
    for index in (0..3).filter(|index| *index != leader) {
        cluster.nodes[index].restart().await;
    }
    assert!(cluster.submit(3, create_cell(3)).await.result.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_told_of_a_change_of_leader() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let leader = cluster.leader().await;
    let old = cluster.nodes[leader].address.to_string();
    let other = (leader + 1) % 3;
    let mut seen = cluster.nodes[other].store().leadership();
    eventually("it knows the leader", async || (seen.borrow().leader.as_ref() == Some(&old)).then_some(())).await;
    let term = seen.borrow_and_update().term;
    cluster.nodes[leader].crash().await;
    let changed = seen.wait_for(|now| now.leader.as_ref().is_some_and(|leader| *leader != old));
    let now = tokio::time::timeout(Duration::from_secs(10), changed).await.expect("a new leader").unwrap();
    assert!(now.term > term);
}

/// A leader answers reads by itself because its followers have promised to elect nobody else for a while. Whoever has
/// just been started may have promised that, and does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_just_started_elects_nobody_until_its_old_promise_has_run_out() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    cluster.submit(1, create_cell(1)).await;
    let leader = cluster.leader().await;
    let (gone, waiting) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[leader].crash().await;
    cluster.nodes[gone].crash().await;
    // The one that is left has nobody to promise anything to any more, and asks for votes all the time.
    let lease = cluster.nodes[waiting].options().timers.election_max;
    tokio::time::sleep(lease * 3).await;
    let begin = Instant::now();
    cluster.nodes[gone].restart().await;
    cluster.leader().await;
    assert!(
        begin.elapsed() >= lease,
        "it voted after {:?}, and may have promised not to for {lease:?}",
        begin.elapsed()
    );
    // A vote that a leader asks for itself does not wait.
    let leader = cluster.leader().await;
    cluster.nodes[leader].store().transfer_leader().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_by_lease_sees_every_write_that_was_answered_and_none_is_answered_without_a_majority() {
    let mut cluster = Cluster::start(3, Bounds::default()).await;
    let leader = cluster.leader().await;
    for number in 1..=50 {
        let reply = cluster.submit(number, create_cell(number)).await;
        let seen = cluster.nodes[leader].store().read_index().await.unwrap();
        assert!(seen >= reply.revision, "{seen:?} after {reply:?}");
    }
    for index in (0..3).filter(|index| *index != leader) {
        cluster.nodes[index].crash().await;
    }
    let timers = cluster.nodes[leader].options().timers;
    tokio::time::sleep(timers.read_lease + timers.heartbeat).await;
    cluster.nodes[leader].store().read_index().await.expect_err("its lease has run out");
}

/// What an operator chooses where a machine may be stopped without its clocks showing it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_a_leader_that_is_cut_off_answers_no_read_however_fresh_its_last_majority_is() {
    let timers = Timers { read_lease: Duration::ZERO, ..Timers::default() };
    let mut cluster = Cluster::start_with(3, Bounds::default(), timers).await;
    let reply = cluster.submit(1, create_cell(1)).await;
    let leader = cluster.leader().await;
    assert!(cluster.nodes[leader].store().read_index().await.unwrap() >= reply.revision);
    for index in (0..3).filter(|index| *index != leader) {
        cluster.nodes[index].crash().await;
    }
    // Its followers have confirmed it a moment ago.
    let refused = cluster.nodes[leader].store().read_index().await.expect_err("nobody confirms it");
    assert!(matches!(refused, ReadError::Unavailable { .. } | ReadError::NotLeader { .. }), "{refused:?}");
}
