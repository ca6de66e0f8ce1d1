//! Cells break. Their tenants notice, and nobody else.

use super::SERVED;
use crate::drill::{Act, Drill, Expect, Group, Needs, Span, Stage, Who};

pub(super) fn drills() -> Vec<Drill> {
    vec![dead_cell(), region_outage(), cell_without_routers(), slow_cell()]
}

/// Nobody outside the first cell feels it.
pub(super) fn contained() -> Vec<Expect> {
    vec![
        Expect::Hurt(Group::On(0)),
        Expect::Served(Group::NotOn(0), Span::Whole, 100),
        Expect::Quick(Group::NotOn(0), Span::Fault, 250),
        Expect::Busy(Group::NotOn(0)),
        Expect::Agreed,
    ]
}

fn dead_cell() -> Drill {
    Drill {
        name: "dead-cell",
        title: "A cell is killed and comes back",
        hypothesis: "The blast radius of a cell is its own tenants exactly: each of them notices, nobody else does. What \
                     it had acknowledged is there when it is back, and its tenants are served again within seconds.",
        steady: SERVED,
        fault: "SIGKILL of cell-1; it is started again six seconds later",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Kill(Who::Cell(0)),
            Act::Wait(3_000),
            Act::Command,
            Act::Wait(3_000),
            Act::Start(Who::Cell(0)),
        ],
        expects: [vec![Expect::Radius(Group::On(0)), Expect::Back(8_000), Expect::Commands(5_000)], contained()]
            .concat(),
    }
}

fn region_outage() -> Drill {
    Drill {
        name: "region-outage",
        title: "One of two cells of a legal zone is cut off from everybody",
        hypothesis: "Tenants of the other cell of the zone and of other zones notice nothing. While half of the zone \
                     is gone, none of its tenants can be moved out of it: residency is stronger than availability.",
        steady: SERVED,
        fault: "cell-1 (zone eu) ⇎ routers, control nodes, other cells; about eight seconds",
        needs: Needs::Any,
        stage: Stage { cells: vec![("eu-west", "eu"), ("eu-north", "eu"), ("us-east", "us")], ..Stage::default() },
        script: vec![
            Act::Cut(Who::Cell(0), Who::Routers),
            Act::Cut(Who::Cell(0), Who::Controls),
            Act::Cut(Who::Cell(0), Who::OtherCells(0)),
            Act::Wait(2_000),
            Act::Forbidden { tenant: 0, to: 2, code: "RESIDENCY_VIOLATED" },
            Act::Forbidden { tenant: 1, to: 2, code: "RESIDENCY_VIOLATED" },
            Act::Wait(5_000),
            Act::Heal,
        ],
        expects: [
            vec![Expect::Swallowed, Expect::Radius(Group::On(0)), Expect::Forbidden, Expect::Back(8_000)],
            contained(),
        ]
        .concat(),
    }
}

fn cell_without_routers() -> Drill {
    Drill {
        name: "router-cell-cut",
        title: "One router cannot reach one cell; everything else is whole",
        hypothesis: "Requests for that cell fail at that router only, and soon fail fast; the same tenants are served \
                     by the other router, and tenants of other cells by both.",
        steady: SERVED,
        fault: "router-1 ⇎ cell-1, for about seven seconds",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![Act::Cut(Who::Router(0), Who::Cell(0)), Act::Wait(7_000), Act::Heal],
        expects: [
            vec![
                Expect::Swallowed,
                Expect::Served(Group::On(0), Span::Fault, 25),
                Expect::Radius(Group::On(0)),
                Expect::Back(8_000),
                Expect::Fresh,
            ],
            contained(),
        ]
        .concat(),
    }
}

fn slow_cell() -> Drill {
    Drill {
        name: "slow-cell",
        title: "A cell is overloaded: it runs a twelfth of the time",
        hypothesis: "Its tenants are slow and are served; the tenants of other cells are hardly slower than before, \
                     at the same routers.",
        steady: SERVED,
        fault: "cell-1 runs 60 of every 720 ms, for about eight seconds",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Stutter { who: Who::Cell(0), run_ms: 60, stop_ms: 660 },
            Act::Wait(8_000),
            Act::Steady(Who::Cell(0)),
        ],
        expects: [
            vec![Expect::Served(Group::On(0), Span::Whole, 95), Expect::Back(3_000), Expect::Fresh],
            contained(),
        ]
        .concat(),
    }
}
