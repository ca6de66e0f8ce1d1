//! Owners without a gate: a hold waits for routers, and stands on a database that fences.

use cell_model::{Command, End, Life, MoveIntent, MoveOptions, Phase};

use crate::cells::Cells;
use crate::paper::{Leader, Paper, cell, tenant};

async fn started(ungated: &[&str], postgres: bool) -> (Cells, Paper, Leader) {
    let cells = Cells::start().await;
    if postgres {
        cells.on_postgres();
    }
    let paper = Paper::new(&cells);
    for name in ungated {
        paper.without_gate(name);
    }
    let leader = paper.elect();
    paper.until("t is live", |paper| paper.record().life == Life::Live).await;
    (cells, paper, leader)
}

#[tokio::test]
async fn a_hold_of_an_owner_without_a_gate_is_asked_of_its_cell_only_once_routers_hold_back() {
    let (cells, paper, leader) = started(&["a"], true).await;
    paper.keep_routers_behind(2);
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    assert_eq!((ended.end, ended.movement.retries_left), (End::Completed, 18), "two holds were missed");
    let holds = cells.steps().iter().filter(|step| *step == "a HoldWrites").count();
    assert_eq!(holds, 1, "and nobody had to wait for them in the database");
    let routers = ended.movement.acks.routers.unwrap();
    assert_eq!((routers.seen, routers.fenced), (3, 1));
    assert!(paper.has_said("routers-held=3 routers-fenced=1"));
}

#[tokio::test]
async fn a_hold_of_an_owner_without_a_gate_is_not_begun_while_a_router_has_just_gone() {
    let (cells, paper, leader) = started(&["a", "b"], true).await;
    paper.let_a_router_go(3);
    let options = MoveOptions { sync_steady_ms: 5, soak_ms: 60_000, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    let phase = |paper: &Paper| paper.record().movement.map(|movement| movement.phase);
    paper.until("it soaks", |paper| phase(paper) == Some(Phase::Soak)).await;
    assert_eq!(paper.looks_left(), 0);
    // The way back is from the other cell.
    paper.let_a_router_go(3);
    let move_id = paper.record().movement.unwrap().id;
    paper.ok(Command::Steer { move_id, intent: MoveIntent::Rollback });
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    let ended = paper.ended().unwrap();
    assert_eq!((ended.end, paper.looks_left()), (End::RolledBack, 0));
    for owner in ["a", "b"] {
        let holds = cells.steps().iter().filter(|step| **step == format!("{owner} HoldWrites")).count();
        assert_eq!(holds, 1, "it was put off, and nobody has waited");
    }
}

#[tokio::test]
async fn a_hold_of_an_owner_with_a_gate_waits_for_no_router() {
    let (_cells, paper, leader) = started(&["b"], true).await;
    paper.keep_routers_behind(u32::MAX);
    paper.start_move();
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    leader.stop().await;
    assert_eq!(paper.ended().unwrap().end, End::Completed);
}

#[tokio::test]
async fn without_a_gate_and_without_a_database_that_fences_nothing_is_moved() {
    for ungated in ["a", "b"] {
        let (cells, paper, leader) = started(&[ungated], false).await;
        paper.start_move();
        paper.until("the move has ended", |paper| paper.ended().is_some()).await;
        leader.stop().await;
        let End::Aborted { code, reason } = paper.ended().unwrap().end else { panic!("it was moved") };
        assert!(code == "NO_FENCE" && reason.contains(&format!("cell {ungated}")), "{code}: {reason}");
        assert!(reason.contains("its application and say so"), "{reason}");
        assert!(!cells.steps().iter().any(|step| step.contains("StartCapture")), "nothing was begun");
    }
}
