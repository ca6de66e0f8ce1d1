//! A request that is sent again when its answer is forgotten.

use std::time::{SystemTime, UNIX_EPOCH};

use cell_client::{ControlClient, WriteOptions};
use cell_model::{CellState, Command, Envelope, Fleet, Limits, RequestId, UnixMillis};
use cell_store::Store;

use crate::nodes::{Nodes, cell_id, create_cell};

const ID: RequestId = RequestId(7);

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(since.as_millis()).unwrap())
}

const HOUR_MS: u64 = 3_600_000;

/// Requests whose leader's clock is an hour ahead, each so long after the one before.
async fn requests(store: &Store, count: u64, gap_ms: u64) {
    let begun = now().get() + HOUR_MS;
    let requests = (1..=count).map(|number| {
        let at = UnixMillis(begun + number * gap_ms);
        let request_id = Some(RequestId(u128::from(gap_ms * 1_000_000 + number)));
        let envelope = Envelope::new(at, Command::SetLimits(Limits::default()));
        store.submit(Envelope { request_id, ..envelope })
    });
    for reply in futures::future::join_all(requests).await {
        reply.expect("it runs").result.expect("limits are set");
    }
}

/// What was asked for and refused with this code, from the audit trail.
async fn refused(client: &ControlClient, code: &str) -> Vec<String> {
    let (mut subjects, mut next) = (Vec::new(), Some(0));
    while let Some(after) = next {
        let page = client.list_audit(after, None).await.unwrap();
        subjects.extend(page.entries.into_iter().filter(|entry| entry.outcome == code).map(|entry| entry.subject));
        next = page.next;
    }
    subjects
}

async fn state(client: &ControlClient) -> CellState {
    client.get_cell(&cell_id("c1")).await.unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_says_its_age_does_not_run_twice_when_its_answer_is_forgotten() {
    let (mut nodes, _) = Nodes::cluster(3).await;
    let client = nodes.client();
    create_cell(&client, "c1").await;
    let named = |first_tried| WriteOptions { request_id: Some(ID), first_tried, ..WriteOptions::default() };
    let cordon = async |options| client.set_cell_state(&cell_id("c1"), CellState::Cordoned, options).await;
    let tried = Some(now());
    let first = cordon(named(None)).await.unwrap();
    assert_eq!(cordon(named(tried)).await.unwrap(), first, "it is remembered");
    // Somebody has done something else since, which a second run would undo.
    client.set_cell_state(&cell_id("c1"), CellState::Active, WriteOptions::default()).await.unwrap();
    let leader = nodes.leader().await;
    let store = nodes.nodes[leader].handle().store().clone();
    // A clock that jumps makes nothing old, however much is done by it.
    requests(&store, Fleet::ANSWERS_MIN as u64 + 1, 0).await;
    for tried in [None, tried] {
        let answered = cordon(named(tried)).await.expect("it is remembered");
        assert_eq!(answered.state, CellState::Active, "it has not run again");
    }
    // A quarter of an hour does, where there are a thousand that are younger.
    let seconds = Fleet::ANSWERS_MIN as u64 + Fleet::ANSWERS_KEPT_MS / 1_000 + 1;
    requests(&store, seconds, 1_000).await;
    drop(store);
    let tried = Some(UnixMillis(now().get() - seconds * 1_000));

    let too_old = |refused: cell_client::ClientError| {
        assert_eq!(refused.code(), "REQUEST_TOO_OLD", "{refused}");
        assert!(refused.to_string().contains("may have run"), "{refused}");
        assert!(refused.hint().contains("look whether it ran"), "{}", refused.hint());
    };
    too_old(cordon(named(tried)).await.unwrap_err());
    // The next leader knows it, too, and a node that was started again.
    nodes.nodes[leader].stop().await;
    too_old(cordon(named(tried)).await.unwrap_err());
    nodes.nodes[leader].start().await;
    let next = nodes.leader().await;
    nodes.nodes[next].stop().await;
    too_old(cordon(named(tried)).await.unwrap_err());
    assert_eq!(state(&client).await, CellState::Active, "it has not run again");
    let refused = refused(&client, "REQUEST_TOO_OLD").await;
    assert!(refused.len() >= 3 && refused.iter().all(|subject| subject == "cell/c1"), "{refused:?}");

    // What is tried for the first time is never refused for its age.
    let fresh = WriteOptions { request_id: Some(RequestId(8)), ..WriteOptions::default() };
    assert_eq!(cordon(fresh).await.unwrap().state, CellState::Cordoned);
}
