//! A planted fault does what it says, so that a checker has something to catch.

use std::sync::Arc;

use cell_agent::Planted;
use cell_agent::engine::MemoryEngine;

use crate::cells::*;

async fn moved(planted: Planted) -> (Ground, Cell, Cell) {
    let mut ground = Ground::new();
    ground.planted = Some(planted);
    let (a, b) = (ground.open("a").await, ground.open("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    copy(&ground, &a, &b, &context(1, 1)).await;
    ground.pool.engage_sync(&a.agent, &context(1, 1), true).await.unwrap();
    ground.pool.prepare_reverse(&b.agent, &context(1, 1)).await.unwrap();
    (ground, a, b)
}

#[tokio::test]
async fn a_lost_write_is_acknowledged_and_missing_after_the_move() {
    let (ground, a, b) = moved(Planted::LostWrite).await;
    for number in 0..20 {
        a.put(1, &format!("k{number:02}"), "v").await.unwrap();
    }
    cut_over(&ground, &a, &b, 1, 1).await;
    assert!(b.rows(2).await.len() < 20);
}

#[tokio::test]
async fn a_cell_that_checks_no_epoch_goes_on_serving_behind_the_fence() {
    let (ground, a, b) = moved(Planted::StaleEpoch).await;
    cut_over(&ground, &a, &b, 1, 1).await;
    a.put(1, "k", "zombie").await.unwrap();
    assert!(!b.rows(2).await.contains_key(&b"k"[..]));
}

#[tokio::test]
async fn a_cell_that_serves_early_takes_writes_before_it_owns() {
    let (_ground, _a, b) = moved(Planted::EarlyServe).await;
    b.put(2, "k", "early").await.unwrap();
}

#[tokio::test]
async fn a_deletion_that_is_not_applied_leaves_its_row_and_no_digest_tells() {
    let (ground, a, b) = moved(Planted::DroppedTombstone).await;
    a.put(1, "k", "v").await.unwrap();
    a.write(1, |rows| rows.delete(b"k")).await.unwrap();
    cut_over(&ground, &a, &b, 1, 1).await;
    assert!(b.rows(2).await.contains_key(&b"k"[..]));
}

#[tokio::test]
async fn a_change_that_comes_twice_brings_back_an_old_value_and_no_digest_tells() {
    let (ground, a, b) = moved(Planted::ChangeTwice).await;
    for number in 0..20 {
        a.put(1, "k", &format!("v{number}")).await.unwrap();
    }
    cut_over(&ground, &a, &b, 1, 1).await;
    let rows = b.rows(2).await;
    assert!(rows[&b"k"[..]] != b"v19", "{rows:?}");
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_ends_after_the_cutover_where_its_owner_was() {
    let (ground, a, b) = moved(Planted::UndrainedCutover).await;
    let before = context(1, 1);
    let (sealed, _) = seal(&ground, &a, &b, &before).await;
    let (data, under_way) = (a.data.clone(), stamp(1));
    let writing =
        tokio::spawn(async move { data.write(&under_way, |rows| rows.put(b"k", b"late".to_vec())).await });
    ground.pool.fence(&a.agent, &before, sealed).await.unwrap();
    let after = context(2, 1);
    ground.pool.activate(&b.agent, &after, Some((&a.id, &a.agent))).await.unwrap();
    assert!(!writing.is_finished());
    ground.pool.deliver_mapping(&a.agent, &after, &ground.mapping(&b.id, 2), None).await.unwrap();
    writing.await.unwrap().unwrap();
    assert!(!b.rows(2).await.contains_key(&b"k"[..]));
}

#[tokio::test]
async fn a_fence_that_lapses_lets_the_former_owner_serve_under_its_old_epoch() {
    let (ground, a, b) = moved(Planted::LapsingFence).await;
    let (sealed, _) = seal(&ground, &a, &b, &context(1, 1)).await;
    ground.pool.fence(&a.agent, &context(1, 1), sealed).await.unwrap();
    assert_eq!(refused_write(a.put(1, "k", "fenced").await), "FENCED");
    let lapsed = async {
        while a.put(1, "k", "zombie").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lapsed).await.expect("the fence lapses");
}

#[tokio::test]
async fn a_cell_that_ignores_the_term_obeys_who_led_before() {
    let (ground, a, _b) = moved(Planted::IgnoredTerm).await;
    let former = cell_client::StepContext { term: cell_model::Term(0), ..context(1, 1) };
    ground.pool.engage_sync(&a.agent, &former, false).await.unwrap();
}

#[tokio::test]
async fn a_write_that_is_not_flushed_is_acknowledged_without_a_sync() {
    for (planted, flushes) in [(Planted::UnflushedWrite, false), (Planted::LostWrite, true)] {
        let (mut ground, engine) = (Ground::new(), Arc::<MemoryEngine>::default());
        ground.planted = Some(planted);
        let cell = ground.open_on("a", engine.clone()).await;
        ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
        cell.put(1, "k", "v").await.unwrap();
        assert_eq!(engine.syncs() > 0, flushes, "{planted:?}");
    }
}
