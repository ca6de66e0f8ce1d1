//! The owner is out of reach: the other cell is promoted, and the old one is told when it is back.

use cell_model::{Command, CopySight, End, Generation, Life, MoveOptions, Phase, Seq, TakeoverOrder};

use crate::cells::{Cells, LAST};
use crate::paper::{Paper, cell, tenant};

pub(crate) fn report(paper: &Paper, agent: &str, generation: u64) {
    paper.ok(Command::ReportCell {
        partial: false,
        cell: cell("a"),
        generation: Generation(generation),
        gates: vec![],
        agent: agent.into(),
    });
}

#[tokio::test]
async fn the_log_learns_that_sync_has_everything_and_the_old_owner_is_told_once_it_is_back() {
    let cells = Cells::start().await;
    let paper = Paper::new(&cells);
    let leader = paper.elect();
    paper.until("t is live", |paper| paper.record().life == Life::Live).await;
    let options = MoveOptions { sync_steady_ms: 60_000, retain_ms: 5, ..MoveOptions::default() };
    paper.ok(Command::MoveTenant { tenant: tenant(), target: cell("b"), options });
    let in_sync =
        |paper: &Paper| paper.record().movement.and_then(|movement| movement.acks.in_sync).map(|ack| ack.seq);
    paper.until("sync has everything", |paper| in_sync(paper) == Some(Seq(LAST))).await;
    assert_eq!(paper.record().movement.unwrap().phase, Phase::Sync);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    report(&paper, &nobody.to_string(), 1);
    let copy = CopySight {
        generation: Generation(0),
        complete: true,
        applied: Seq(LAST),
        heard: Seq(LAST),
        ungated: false,
    };
    let evidence = "its power is off".to_owned();
    let (target, stopped) = (cell("b"), Generation(1));
    let order = TakeoverOrder { target, evidence, accept_data_loss: false, stopped, copy };
    paper.ok(Command::TakeOver { tenant: tenant(), order });
    paper.until("the move has ended", |paper| paper.ended().is_some()).await;
    let ended = paper.ended().unwrap();
    assert_eq!((ended.end, ended.epoch.0), (End::TakenOver, 2));
    assert!(ended.movement.takeover.unwrap().lossless);
    let kept = |paper: &Paper| paper.record().retained[0].quarantine.unwrap();
    assert_eq!((kept(&paper).after, kept(&paper).tail), (Seq(LAST + 1), None));
    // Nobody waits for it: a new leader goes on asking, too.
    leader.kill();
    let leader = paper.elect();
    assert!(!cells.steps().iter().any(|step| step == "a PutAside"));
    report(&paper, &cells.a, 2);
    paper.until("it has put aside what it has", |paper| kept(paper).tail.is_some()).await;
    assert_eq!(kept(&paper).tail.unwrap().changes, 2);
    let reclaimed = |cells: &Cells| cells.steps().iter().any(|step| step == "a Reclaim");
    assert!(!reclaimed(&cells), "not before somebody has let go of it");
    paper.ok(Command::DropQuarantine { tenant: tenant(), cell: cell("a") });
    paper.until("the old copy is gone", |paper| paper.record().retained.is_empty()).await;
    assert!(reclaimed(&cells));
    leader.stop().await;
}
