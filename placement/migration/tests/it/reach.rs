//! A tenant that is served through gates is not moved to where there is none.

use cell_model::{Command, End, MoveIntent, MoveOptions, Phase};

use crate::cells::Cells;
use crate::paper::{Leader, Paper, cell, phase, started, tenant};

async fn served() -> (Cells, Paper, Leader) {
    let (cells, paper, leader) = started().await;
    paper.gates_of("a", &["10.0.0.1:7001"]);
    (cells, paper, leader)
}

#[tokio::test]
async fn a_move_to_a_cell_of_which_no_gate_is_known_ends_in_preflight() {
    let (cells, paper, leader) = served().await;
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let End::Aborted { code, reason } = paper.ended().unwrap().end else { panic!("it was moved") };
    assert!(code == "NO_GATE" && reason.contains("no gate of cell b is known"), "{code}: {reason}");
    assert!(!cells.steps().iter().any(|step| step.ends_with("StartCapture")), "{:?}", cells.steps());
}

#[tokio::test]
async fn a_gate_that_comes_a_little_later_is_waited_for() {
    let (_cells, paper, leader) = served().await;
    paper.start_move();
    paper.until("both cells were looked at", |paper| phase(paper) == Some(Phase::Preflight)).await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    paper.gates_of("b", &["10.0.0.2:7001"]);
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert_eq!(paper.ended().unwrap().end, End::Completed);
}

#[tokio::test]
async fn no_hold_is_begun_towards_a_cell_whose_gates_have_gone_in_either_direction() {
    let (cells, paper, leader) = served().await;
    paper.gates_of("b", &["10.0.0.2:7001"]);
    let options = MoveOptions { sync_steady_ms: 200, soak_ms: 60_000, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    paper.until("it is copied", |paper| phase(paper) == Some(Phase::Sync)).await;
    paper.gates_of("b", &[]);
    let holds = || cells.steps().iter().filter(|step| step.ends_with("HoldWrites")).count();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!((holds(), phase(&paper)), (0, Some(Phase::Sync)));
    paper.gates_of("b", &["10.0.0.2:7001"]);
    paper.until("it soaks", |paper| phase(paper) == Some(Phase::Soak)).await;
    assert_eq!(holds(), 1);
    paper.gates_of("a", &[]);
    let move_id = paper.record().movement.unwrap().id;
    paper.ok(Command::Steer { move_id, intent: MoveIntent::Rollback });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(holds(), 1, "the way back is towards a");
    paper.gates_of("a", &["10.0.0.1:7001"]);
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert_eq!((paper.ended().unwrap().end, holds()), (End::RolledBack, 2));
}
