//! The other ends of a move, and what refusals of cells lead to.

use std::time::Duration;

use cell_model::{CellState, Command, End, Life, MoveIntent, MoveOptions, Phase};

use crate::paper::{Paper, cell, phase, started, tenant};

#[tokio::test]
async fn a_rollback_brings_the_tenant_home_and_drops_the_copy() {
    let (cells, paper, leader) = started().await;
    let options = MoveOptions { sync_steady_ms: 5, soak_ms: 60_000, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    paper.until("soaking", |paper| phase(paper) == Some(Phase::Soak)).await;
    let move_id = paper.record().movement.unwrap().id;
    paper.ok(Command::Steer { move_id, intent: MoveIntent::Rollback });
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let record = paper.record();
    assert_eq!((record.owner, record.epoch.0), (cell("a"), 3));
    assert_eq!(paper.ended().unwrap().end, End::RolledBack);
    let steps = cells.steps();
    assert!(steps.iter().any(|step| step == "b Fence") && steps.iter().any(|step| step == "b DropImport"));
}

#[tokio::test]
async fn a_move_that_does_not_go_on_says_what_it_has_met_and_since_when() {
    let (cells, paper, leader) = started().await;
    cells.keep_refusing(Some(("StartCapture", "BUSY")));
    paper.start_move();
    let seen = async || {
        loop {
            let movement = paper.record().movement.expect("it is under way");
            match leader.setbacks.of(&movement) {
                Some(seen) if seen.last > seen.since => return seen,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(20), seen()).await.expect("in time");
    assert_eq!((seen.code.as_str(), seen.reason.as_str()), ("BUSY", "start capture: as the test wants"));
    cells.keep_refusing(None);
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    let ended = paper.ended().unwrap();
    assert_eq!(ended.end, End::Completed);
    assert_eq!(leader.setbacks.of(&ended.movement), None, "it was in the way of another phase");
    leader.stop().await;
}

/// A drill has found it: the end of the soak had been written down by a clock that was a day ahead.
#[tokio::test]
async fn a_clock_that_was_a_day_ahead_and_is_right_again_keeps_no_move_waiting() {
    for jump_in in [Phase::Sync, Phase::Soak] {
        let (_cells, paper, leader) = started().await;
        paper.set_clock_ahead(Duration::from_secs(86_400));
        let options = MoveOptions { sync_steady_ms: 300, soak_ms: 300, ..MoveOptions::default() };
        paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
        paper.until("the phase of the jump", |paper| phase(paper) == Some(jump_in)).await;
        paper.set_clock_ahead(Duration::ZERO);
        paper.until("the move has ended", |paper| paper.ended().is_some()).await;
        leader.stop().await;
        assert_eq!(paper.ended().unwrap().end, End::Completed, "{jump_in:?}");
    }
}

#[tokio::test]
async fn a_cell_that_has_heard_of_a_younger_leader_is_no_finding_of_preflight() {
    let (cells, paper, leader) = started().await;
    cells.refuse("Preflight", "STALE_TERM");
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert_eq!(paper.ended().unwrap().end, End::Completed, "the leader looked again: {:?}", paper.ended());
}

#[tokio::test]
async fn a_hook_that_refuses_the_beginning_ends_the_move_and_one_that_refuses_a_hold_does_not() {
    for (step, code) in [("StartCapture", "HOOK_REFUSED"), ("PrepareImport", "HOOK_FAILED")] {
        let (cells, paper, leader) = started().await;
        cells.refuse(step, code);
        paper.start_move();
        paper.until("the move has ended", |paper| paper.ended().is_some()).await;
        leader.stop().await;
        let ended = paper.ended().unwrap();
        assert!(matches!(&ended.end, End::Aborted { code: by, .. } if by == code), "{step}: {:?}", ended.end);
        assert_eq!((paper.record().owner, paper.record().epoch.0), (cell("a"), 1));
        let steps = cells.steps();
        assert!(
            steps.iter().any(|step| step == "b DropImport") && steps.iter().any(|step| step == "a StopCapture")
        );
    }
    let (cells, paper, leader) = started().await;
    cells.refuse("HoldWrites", "HOOK_REFUSED");
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert_eq!(paper.ended().unwrap().end, End::Completed);
    assert_eq!(paper.ended().unwrap().movement.retries_left, 19, "the hold was tried again");
}

#[tokio::test]
async fn a_cancel_in_sync_cleans_both_cells() {
    let (cells, paper, leader) = started().await;
    let options = MoveOptions { sync_steady_ms: 60_000, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    paper.until("in sync", |paper| phase(paper) == Some(Phase::Sync)).await;
    let move_id = paper.record().movement.unwrap().id;
    paper.ok(Command::Steer { move_id, intent: MoveIntent::Cancel });
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert_eq!(paper.ended().unwrap().end, End::Cancelled);
    assert_eq!(paper.record().epoch.0, 1);
    let steps = cells.steps();
    assert!(steps.iter().any(|step| step == "b DropImport") && steps.iter().any(|step| step == "a StopCapture"));
}

#[tokio::test]
async fn a_hold_that_a_cell_refuses_is_tried_again() {
    let (cells, paper, leader) = started().await;
    cells.refuse("HoldWrites", "NOT_QUIESCED");
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    assert_eq!(ended.end, End::Completed);
    assert_eq!(ended.movement.retries_left, 19);
    assert!(cells.steps().iter().any(|step| step == "a ReleaseHold"));
}

/// The cell's time is up a moment after the coordinator's.
#[tokio::test]
async fn a_hold_that_is_missed_says_until_the_next_one_what_the_cell_has_waited_for() {
    let (cells, paper, leader) = started().await;
    cells.wait_in_vain("NOT_QUIESCED");
    let options = MoveOptions { hold_max_ms: 50, retries: 1, sync_steady_ms: 300, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    let seen = async {
        loop {
            let movement = paper.record().movement.expect("it is under way");
            let seen = leader.setbacks.of(&movement);
            if let Some(seen) = seen.filter(|_| movement.phase == Phase::Sync) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(20), seen).await.expect("in time");
    assert_eq!((seen.code.as_str(), seen.reason.as_str()), ("NOT_QUIESCED", "hold: one write"));
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let End::Aborted { code, reason } = paper.ended().unwrap().end else { panic!("{:?}", paper.ended()) };
    assert_eq!((code.as_str(), reason.as_str()), ("HOLD_RETRIES_SPENT", "hold: refused: NOT_QUIESCED: one write"));
}

#[tokio::test]
async fn writers_that_a_hold_has_ended_are_counted_also_where_it_was_missed() {
    for terminate_writers in [true, false] {
        let (cells, paper, leader) = started().await;
        cells.refuse("HoldWrites", "NOT_QUIESCED");
        let options = MoveOptions {
            sync_steady_ms: 5,
            soak_ms: 5,
            retain_ms: 5,
            retries: 20,
            terminate_writers,
            ..MoveOptions::default()
        };
        paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
        paper.until("the move has ended", |paper| paper.ended().is_some()).await;
        leader.stop().await;
        let ended = paper.ended().unwrap();
        assert_eq!((ended.end, ended.movement.retries_left), (End::Completed, 19));
        assert_eq!(ended.movement.ended_writers, if terminate_writers { 2 } else { 0 });
        // Told of the hold that was missed, and of the one that was not.
        assert_eq!(paper.has_said("ended-writers=1"), terminate_writers);
    }
}

#[tokio::test]
async fn a_fence_that_is_refused_is_settled_by_a_higher_epoch() {
    let (cells, paper, leader) = started().await;
    cells.refuse("Fence", "NOT_SEALED");
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert_eq!(paper.ended().unwrap().end, End::Completed);
    assert_eq!(paper.record().epoch.0, 3, "one for the abort, one for the commit");
    assert!(cells.steps().iter().any(|step| step == "a Unfence"));
}

#[tokio::test]
async fn a_preflight_finding_ends_the_move_with_its_code() {
    let (cells, paper, leader) = started().await;
    cells.refuse("Preflight", "DISK_TOO_SMALL");
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert!(matches!(paper.ended().unwrap().end, End::Aborted { code, .. } if code == "DISK_TOO_SMALL"));
}

#[tokio::test]
async fn a_cell_that_nobody_answers_at_ends_the_move_in_preflight() {
    let (_cells, paper, leader) = started().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    paper.ok(Command::ReportCell {
        partial: false,
        cell: cell("b"),
        generation: cell_model::Generation(1),
        gates: vec![],
        agent: nobody.to_string(),
    });
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert!(matches!(paper.ended().unwrap().end, End::Aborted { code, .. } if code == "CELL_UNREACHABLE"));
}

#[tokio::test]
async fn a_cell_declared_dead_is_not_waited_for_in_cleanup() {
    let (_cells, paper, leader) = started().await;
    let options = MoveOptions { sync_steady_ms: 60_000, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    paper.until("in sync", |paper| phase(paper) == Some(Phase::Sync)).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    paper.ok(Command::ReportCell {
        partial: false,
        cell: cell("b"),
        generation: cell_model::Generation(1),
        gates: vec![],
        agent: nobody.to_string(),
    });
    let move_id = paper.record().movement.unwrap().id;
    paper.ok(Command::Steer { move_id, intent: MoveIntent::Cancel });
    tokio::time::timeout(Duration::from_millis(50), paper.until("never", |paper| paper.ended().is_some()))
        .await
        .expect_err("the cleanup waits for the silent cell");
    paper.ok(Command::SetCellState { cell: cell("b"), state: CellState::Dead });
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
}

#[tokio::test]
async fn a_deleted_tenant_is_revoked_at_its_cell() {
    let (cells, paper, leader) = started().await;
    paper.ok(Command::DeleteTenant { tenant: tenant() });
    paper.until("t is deleted", |paper| paper.record().life == Life::Deleted).await;
    leader.stop().await;
    assert!(cells.steps().iter().any(|step| step == "a Revoke"));
}

#[tokio::test]
async fn a_rehearsal_fences_the_owner_gives_it_the_tenant_back_and_cleans_both_cells() {
    let (cells, paper, leader) = started().await;
    let options = MoveOptions { sync_steady_ms: 5, rehearse: true, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert_eq!(paper.ended().unwrap().end, End::Rehearsed);
    assert_eq!((paper.record().owner, paper.record().epoch.0), (cell("a"), 2));
    let steps = cells.steps();
    let place = |wanted: &str| steps.iter().position(|step| step == wanted);
    assert!(place("a Fence") < place("a Unfence") && place("a Unfence") < place("b DropImport"), "{steps:?}");
    assert!(place("b DropImport").is_some() && place("a StopCapture").is_some(), "{steps:?}");
    assert_eq!(place("b Activate"), None, "the target never owned");
}

#[tokio::test]
async fn a_move_that_is_to_stop_at_its_hold_lets_go_of_it_before_it_says_so() {
    let (cells, paper, leader) = started().await;
    let options = MoveOptions { sync_steady_ms: 5, until: Some(Phase::Hold), ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    let paused = |paper: &Paper| {
        paper.record().movement.is_some_and(|movement| movement.intent == cell_model::Intent::Pause)
    };
    paper.until("it pauses", paused).await;
    leader.stop().await;
    assert_eq!(phase(&paper), Some(Phase::Sync));
    let steps = cells.steps();
    assert!(steps.iter().any(|step| step == "a ReleaseHold"), "{steps:?}");
    assert!(!steps.iter().any(|step| step == "a Fence"), "{steps:?}");
}

#[tokio::test]
async fn what_preflight_weighs_and_what_the_old_cell_turned_away_are_kept_with_the_move() {
    let (_cells, paper, leader) = started().await;
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let movement = paper.ended().unwrap().movement;
    assert_eq!(movement.weight, Some(cell_model::Weight { rows: 3, bytes: 300 }));
    assert_eq!(movement.stale_rejected, Some(4));
}

#[tokio::test]
async fn a_copy_that_applies_and_comes_no_closer_ends_the_move() {
    let (cells, paper, leader) = started().await;
    cells.apply_in_vain();
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    let End::Aborted { code, reason } = &ended.end else { panic!("{:?}", ended.end) };
    assert_eq!(code, "WRITERS_TOO_FAST");
    assert!(reason.contains("lags by 5000 ms and 9000 bytes"), "{reason}");
    assert_eq!((paper.record().owner, paper.record().epoch.0), (cell("a"), 1));
}
