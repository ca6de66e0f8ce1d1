//! A copy that is not the original.

use std::time::Duration;

use cell_model::{Command, End, Intent, Life, MoveIntent, MoveOptions, MoveRecord, Phase};

use crate::cells::Cells;
use crate::paper::{Paper, cell, started, tenant};

/// A move to its end, of which so many of these steps find a difference.
async fn moved_with_differences(step: &str, times: usize) -> (Cells, Paper, MoveRecord) {
    let (cells, paper, leader) = started().await;
    cells.differ(step, times);
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    (cells, paper, ended)
}

fn count(cells: &Cells, step: &str) -> usize {
    cells.steps().iter().filter(|taken| *taken == step).count()
}

#[tokio::test]
async fn rows_that_differ_are_copied_anew_and_everything_is_compared_again() {
    let (cells, _, ended) = moved_with_differences("ScanDigest", 1).await;
    assert_eq!(ended.end, End::Completed);
    let found = &ended.movement.differences;
    assert_eq!((found.len(), found[0].count(), found[0].phase), (1, 1, Phase::Verify));
    assert_eq!(found[0].rows[0].to_string(), "orders(7) missing");
    let wanted = ["b ScanDigest", "b Examine", "b Recopy", "a ScanDigest", "b ScanDigest"];
    let steps = cells.steps();
    let begins = steps.iter().position(|step| step == wanted[0]).unwrap();
    assert_eq!(steps[begins..begins + wanted.len()], wanted);
}

#[tokio::test]
async fn a_copy_that_differs_again_and_again_is_given_up_with_the_rows_that_differ() {
    let (cells, paper, ended) = moved_with_differences("ScanDigest", usize::MAX).await;
    let End::Aborted { code, reason } = &ended.end else { panic!("{:?}", ended.end) };
    assert_eq!(code, "DIGEST_MISMATCH");
    assert!(reason.contains("1 rows missing") && reason.contains("orders(7) missing"), "{reason}");
    let most = cell_model::Move::DIFFERENCES_MAX;
    assert_eq!((count(&cells, "b Examine"), count(&cells, "b Recopy")), (most + 1, most));
    assert_eq!((paper.record().owner, paper.record().epoch.0), (cell("a"), 1));
}

#[tokio::test]
async fn a_difference_at_the_seal_is_looked_for_in_all_rows_before_another_hold() {
    let (cells, _, ended) = moved_with_differences("DigestAt", 1).await;
    assert_eq!(ended.end, End::Completed);
    assert_eq!(ended.movement.differences.iter().map(|found| found.phase).collect::<Vec<_>>(), [Phase::Hold]);
    assert_eq!((count(&cells, "b ScanDigest"), count(&cells, "a HoldWrites")), (2, 2));
}

#[tokio::test]
async fn a_cell_that_cannot_find_out_which_rows_differ_ends_the_move() {
    let (cells, paper, leader) = started().await;
    cells.differ("ScanDigest", 1);
    cells.refuse("Examine", "REPAIR_UNSUPPORTED");
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    let End::Aborted { code, reason } = &ended.end else { panic!("{:?}", ended.end) };
    assert_eq!(code, "DIGEST_MISMATCH");
    assert!(reason.contains("the copy to 2:") && reason.contains("REPAIR_UNSUPPORTED"), "{reason}");
    assert_eq!(count(&cells, "b Recopy"), 0);
}

/// A move in which this cell finds once that its rows do not add up to what it has counted.
async fn moved_past_damage_at(cell: &str) -> (Cells, MoveRecord) {
    let (cells, paper, leader) = started().await;
    cells.refuse(&format!("{cell} ScanDigest"), "MISMATCH");
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    (cells, ended)
}

#[tokio::test]
async fn a_copy_whose_own_rows_do_not_add_up_is_mended_and_a_source_is_not() {
    let (cells, ended) = moved_past_damage_at("b").await;
    assert_eq!((ended.end, ended.movement.differences.len()), (End::Completed, 1));
    assert_eq!((count(&cells, "b Examine"), count(&cells, "b Recopy")), (1, 1));

    let (cells, ended) = moved_past_damage_at("a").await;
    let End::Aborted { code, reason } = &ended.end else { panic!("{:?}", ended.end) };
    assert_eq!(code, "DIGEST_MISMATCH");
    assert!(reason.starts_with("the source: "), "{reason}");
    assert_eq!(count(&cells, "b Examine"), 0);
}

/// A move that is to compare every row, or not.
async fn moved_comparing(exact: bool, prepare: impl FnOnce(&Cells)) -> (Cells, MoveRecord) {
    let (cells, paper, leader) = started().await;
    prepare(&cells);
    let options = MoveOptions { sync_steady_ms: 5, soak_ms: 5, exact, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    (cells, ended)
}

#[tokio::test]
async fn every_row_is_compared_where_that_was_asked_for_though_all_add_up_to_the_same() {
    let (cells, ended) = moved_comparing(true, |cells| cells.differ("Examine", 1)).await;
    assert_eq!((ended.end, ended.movement.differences.len()), (End::Completed, 1));
    assert_eq!(ended.movement.differences[0].changed, 1);
    assert_eq!((count(&cells, "b Examine"), count(&cells, "b Recopy")), (2, 1), "found, mended, found to be alike");
    let (cells, ended) = moved_comparing(false, |_| {}).await;
    assert_eq!((ended.end, count(&cells, "b Examine")), (End::Completed, 0));
}

#[tokio::test]
async fn a_cell_that_cannot_compare_every_row_ends_a_move_that_asks_for_it() {
    let (_, ended) = moved_comparing(true, |cells| cells.refuse("Examine", "REPAIR_UNSUPPORTED")).await;
    let End::Aborted { code, .. } = &ended.end else { panic!("{:?}", ended.end) };
    assert_eq!(code, "EXACT_UNSUPPORTED");
}

#[tokio::test]
async fn rows_that_cannot_be_copied_now_are_tried_again() {
    let (cells, paper, leader) = started().await;
    cells.differ("ScanDigest", 1);
    cells.refuse("Recopy", "BUSY");
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    assert_eq!((ended.end, ended.movement.differences.len()), (End::Completed, 1));
    assert_eq!(count(&cells, "b Recopy"), 1);
}

#[tokio::test]
async fn rows_that_differ_in_soak_let_the_move_rest_with_both_copies_there() {
    for (asked, end) in [(MoveIntent::Rollback, End::RolledBack), (MoveIntent::Resume, End::Completed)] {
        let cells = Cells::start().await;
        let paper = Paper::new(&cells);
        let leader = paper.elect_looking_every(Duration::from_millis(5));
        paper.until("t is live", |paper| paper.record().life == Life::Live).await;
        cells.differ("CompareSample", 1);
        let soak_ms = if asked == MoveIntent::Resume { 50 } else { 60_000 };
        let options = MoveOptions { sync_steady_ms: 5, soak_ms, ..MoveOptions::default() };
        paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
        let rests = |paper: &Paper| {
            paper
                .record()
                .movement
                .is_some_and(|movement| (movement.phase, movement.intent) == (Phase::Soak, Intent::Pause))
        };
        paper.until("it rests in soak", rests).await;
        let movement = paper.record().movement.unwrap();
        let found = &movement.differences[0];
        assert_eq!((found.phase, found.changed), (Phase::Soak, 1));
        assert_eq!(count(&cells, "a CompareSample"), 1, "the old owner follows, and compares");
        paper.ok(Command::Steer { move_id: movement.id, intent: asked });
        paper.until("the move has ended", |paper| paper.ended().is_some()).await;
        leader.stop().await;
        let ended = paper.ended().unwrap();
        assert_eq!((&ended.end, ended.movement.differences.len()), (&end, 1));
    }
}
