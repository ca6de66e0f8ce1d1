//! Moves are disturbed in every phase. Each ends, and nothing is lost whatever its end.

use cell_model::Phase;

use super::SERVED;
use crate::drill::{Act, Drill, Expect, Group, Needs, Span, Stage, Who};

pub(super) fn drills() -> Vec<Drill> {
    vec![
        cut_in_backfill(),
        cut_in_sync(),
        cut_in_soak(),
        paused_source(),
        paused_target(),
        stale_router(),
        takeover(),
    ]
}

/// The move is done, and only its own tenant has felt anything.
fn moved() -> Vec<Expect> {
    vec![
        Expect::Ends("completed"),
        Expect::Served(Group::NotMoving, Span::Whole, 100),
        Expect::Busy(Group::Moving),
        Expect::Agreed,
    ]
}

fn cut_in_backfill() -> Drill {
    Drill {
        name: "cut-in-backfill",
        title: "Source and target lose each other while the copy is made",
        hypothesis: "The copy waits and goes on where it was; the tenant is served by the source as if nothing moved.",
        steady: SERVED,
        fault: "source ⇎ target during Backfill, for about four seconds",
        needs: Needs::Any,
        stage: Stage { first_filling: Some((160, 60_000)), ..Stage::default() },
        script: vec![
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Reach(Phase::Backfill),
            Act::Cut(Who::Cell(0), Who::Cell(1)),
            Act::Wait(4_000),
            Act::Heal,
            Act::Settle,
        ],
        expects: [
            vec![
                Expect::Swallowed,
                Expect::FaultIn(vec![Phase::Backfill]),
                Expect::Served(Group::Moving, Span::Fault, 99),
                Expect::Back(5_000),
            ],
            moved(),
        ]
        .concat(),
    }
}

fn cut_in_sync() -> Drill {
    Drill {
        name: "cut-in-sync",
        title: "Source and target lose each other while every write is acknowledged by both",
        hypothesis: "Writes wait until a committed decision lets the source go on alone, never longer; none is \
                     acknowledged that the target lacks before that. The move catches up and completes.",
        steady: SERVED,
        fault: "source ⇎ target during Sync, for about five seconds",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Move { tenant: 0, to: 1, until: Some(Phase::Sync) },
            Act::Reach(Phase::Sync),
            Act::Wait(800),
            Act::Cut(Who::Cell(0), Who::Cell(1)),
            Act::Wait(5_000),
            Act::Heal,
            Act::Wait(500),
            Act::Resume,
            Act::Settle,
        ],
        expects: [
            vec![
                Expect::Swallowed,
                Expect::FaultIn(vec![Phase::Sync]),
                Expect::Hurt(Group::Moving),
                Expect::Served(Group::Moving, Span::Fault, 90),
                Expect::Back(5_000),
            ],
            moved(),
        ]
        .concat(),
    }
}

fn cut_in_soak() -> Drill {
    Drill {
        name: "cut-in-soak",
        title: "The former owner loses the new one while it follows it",
        hypothesis: "The new owner goes on serving alone; the move completes, and the way back is given up rather \
                     than the tenant's availability.",
        steady: SERVED,
        fault: "source ⇎ target during Soak, for about five seconds",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Reach(Phase::Soak),
            Act::Cut(Who::Cell(0), Who::Cell(1)),
            Act::Wait(5_000),
            Act::Heal,
            Act::Settle,
        ],
        expects: [
            vec![
                Expect::Swallowed,
                Expect::FaultIn(vec![Phase::Soak]),
                Expect::Served(Group::Moving, Span::Fault, 90),
                Expect::Back(5_000),
            ],
            moved(),
        ]
        .concat(),
    }
}

fn paused_source() -> Drill {
    Drill {
        name: "paused-cell",
        title: "The former owner stands still across a cutover and comes back with an old epoch",
        hypothesis: "A cell that slept through its own removal serves nobody when it wakes up: every request under \
                     the old epoch is refused, also those that waited at its door.",
        steady: SERVED,
        fault: "SIGSTOP of the source from Soak on, for about seven seconds; a client calls it under the old epoch",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Reach(Phase::Soak),
            Act::Freeze(Who::Cell(0)),
            Act::Haunt(0),
            Act::Wait(7_000),
            Act::Thaw(Who::Cell(0)),
            Act::Wait(1_000),
            Act::Settle,
        ],
        expects: vec![
            Expect::FaultIn(vec![Phase::Soak]),
            Expect::Hurt(Group::On(0)),
            Expect::NotHaunted,
            Expect::Ends("completed"),
            Expect::Served(Group::Moving, Span::Whole, 90),
            Expect::Served(Group::NotOn(0), Span::Whole, 100),
            Expect::Back(8_000),
            Expect::Agreed,
        ],
    }
}

fn paused_target() -> Drill {
    Drill {
        name: "paused-target",
        title: "The target stands still just before the cutover",
        hypothesis: "Without the target there is no cutover: the hold lapses, the source goes on serving, and the \
                     move completes when the target is back.",
        steady: SERVED,
        fault: "SIGSTOP of the target in Sync, for about five seconds",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Reach(Phase::Sync),
            Act::Freeze(Who::Cell(1)),
            Act::Wait(5_000),
            Act::Thaw(Who::Cell(1)),
            Act::Settle,
        ],
        expects: vec![
            Expect::FaultIn(vec![Phase::Sync]),
            Expect::Hurt(Group::On(1)),
            Expect::Ends("completed"),
            Expect::Served(Group::Moving, Span::Whole, 90),
            Expect::Served(Group::On(2), Span::Whole, 100),
            Expect::Back(8_000),
            Expect::Agreed,
        ],
    }
}

fn takeover() -> Drill {
    Drill {
        name: "takeover",
        title: "The owner is killed while every write is acknowledged by both, and the other cell takes over",
        hypothesis: "Nothing that was acknowledged is missing at the cell that takes over, and it is served by it within \
                     seconds of the decision. The old owner, started again, does not believe that it still owns.",
        steady: SERVED,
        fault: "SIGKILL of the source in Sync; the target is made the owner by force; the source starts again, and a client \
                calls it under the old epoch",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Move { tenant: 0, to: 1, until: Some(Phase::Sync) },
            Act::Reach(Phase::Sync),
            Act::InSync,
            Act::Wait(500),
            Act::Kill(Who::Cell(0)),
            Act::TakeOver { tenant: 0, to: 1 },
            Act::Settle,
            Act::Wait(2_000),
            Act::Haunt(0),
            Act::Start(Who::Cell(0)),
            Act::Wait(4_000),
        ],
        expects: vec![
            Expect::FaultIn(vec![Phase::Sync]),
            Expect::Hurt(Group::On(0)),
            Expect::NotHaunted,
            Expect::Ends("taken-over"),
            Expect::Served(Group::NotOn(0), Span::Whole, 100),
            Expect::Back(8_000),
            Expect::Agreed,
        ],
    }
}

fn stale_router() -> Drill {
    Drill {
        name: "stale-router",
        title: "A router misses a hundred moves",
        hypothesis: "A router that hears nothing of the control plane costs a detour, never an answer: cells send it \
                     on with a signed mapping. When it is back, it catches up by itself.",
        steady: SERVED,
        fault: "router-2 ⇎ control nodes, from before a hundred moves until after them",
        needs: Needs::Any,
        stage: Stage { gap_ms: 150, ..Stage::default() },
        script: vec![
            Act::Cut(Who::Router(1), Who::Controls),
            Act::Wait(1_000),
            Act::Moves(100),
            Act::Wait(1_000),
            Act::Heal,
        ],
        expects: vec![
            Expect::Swallowed,
            Expect::Redirected(20),
            Expect::Ends("completed"),
            Expect::Served(Group::All, Span::Whole, 100),
            Expect::Busy(Group::All),
            Expect::Back(1_000),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}
