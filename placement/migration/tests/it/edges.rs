//! The leader dies at every step edge, before and after the side effect, its reply lost: the next one goes on.

use cell_model::invariants::check_record_succession;
use cell_model::{End, Event, Life};

use crate::cells::{Cells, Strike};
use crate::paper::{Paper, cell, record_outside};

/// Every step that a move which goes well sends, its old copy's end included.
const STEPS: [&str; 18] = [
    "Grant",
    "Preflight",
    "StartCapture",
    "PrepareImport",
    "ImportStatus",
    "ScanDigest",
    "EngageSync",
    "SyncStatus",
    "PrepareReverse",
    "HoldWrites",
    "AwaitApplied",
    "DigestAt",
    "Fence",
    "Activate",
    "DeliverMapping",
    "Retire",
    "StopCapture",
    "Reclaim",
];

/// Brings t from its creation through a whole move to where nothing of the move is left.
async fn whole_move(paper: &Paper) {
    paper.until("t is live", |paper| paper.record().life == Life::Live).await;
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    paper.until("the old copy is gone", |paper| paper.record().retained.is_empty()).await;
}

#[tokio::test]
async fn a_leader_that_dies_at_any_edge_is_followed_by_one_that_ends_the_move() {
    for step in STEPS {
        for after_effect in [false, true] {
            let cells = Cells::start().await;
            let paper = Paper::new(&cells);
            cells.strike_at(Strike { step: step.into(), after_effect });
            let first = paper.elect();
            let moving = tokio::spawn({
                let paper = paper.clone();
                async move { whole_move(&paper).await }
            });
            cells.struck().await;
            first.kill();
            let second = paper.elect();
            moving.await.unwrap_or_else(|error| panic!("killed at {step}, after_effect {after_effect}: {error}"));
            second.stop().await;

            assert_eq!(paper.ended().expect("ended").end, End::Completed, "killed at {step}");
            let record = paper.record();
            assert_eq!((record.owner, record.epoch.0), (cell("b"), 2), "killed at {step}");
            for pair in paper.history().windows(2) {
                assert_eq!(check_record_succession(&pair[0], &pair[1]), vec![]);
            }
            for of in ["a", "b"] {
                assert!(cells.terms(of).is_sorted(), "no step of the old leader after one of the new");
            }
        }
    }
}

#[tokio::test]
async fn the_steps_of_a_move_that_goes_well_come_in_the_order_of_the_protocol() {
    let cells = Cells::start().await;
    let paper = Paper::new(&cells);
    let leader = paper.elect();
    whole_move(&paper).await;
    leader.stop().await;
    let steps = cells.steps();
    let first =
        |step: &str| steps.iter().position(|s| s == step).unwrap_or_else(|| panic!("no {step} in {steps:?}"));
    let order = [
        "a Grant",
        "a Preflight",
        "b Preflight",
        "a StartCapture",
        "b PrepareImport",
        "a ScanDigest",
        "b ScanDigest",
        "a EngageSync",
        "b PrepareReverse",
        "a HoldWrites",
        "b AwaitApplied",
        "a Fence",
        "b Activate",
        "a Retire",
        "b StopCapture",
        "a Reclaim",
    ];
    // Both digests are asked for at once, in the hold.
    let digests = [["a HoldWrites", "a DigestAt", "a Fence"], ["a HoldWrites", "b DigestAt", "a Fence"]];
    for pair in order.windows(2).chain(digests.iter().flat_map(|three| three.windows(2))) {
        assert!(first(pair[0]) < first(pair[1]), "{} before {}: {steps:?}", pair[0], pair[1]);
    }
}

#[tokio::test]
async fn an_old_leader_that_wakes_up_has_no_effect() {
    let cells = Cells::start().await;
    let paper = Paper::new(&cells);
    let old = paper.elect();
    paper.until("t is live", |paper| paper.record().life == Life::Live).await;
    // Both work at the same time; only the new one can propose, and cells refuse the old one's steps.
    let new = paper.elect();
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    paper.until("the old copy is gone", |paper| paper.record().retained.is_empty()).await;
    assert_eq!(paper.record().epoch.0, 2);
    for of in ["a", "b"] {
        assert!(cells.terms(of).is_sorted());
    }
    old.stop().await;
    new.stop().await;
    // Said again by somebody who did not hear the answer: nothing happens.
    let reply = record_outside(&paper, Event::Reclaimed { cell: cell("a") });
    assert_eq!(reply.result, Ok(cell_model::Outcome::Unchanged));
}
