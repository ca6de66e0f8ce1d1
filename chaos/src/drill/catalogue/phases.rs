//! A fault in each phase of a move, on its way there, on its way back, and where it is called off.

use cell_model::Phase;

use super::SERVED;
use crate::drill::{Act, Blow, Drill, Expect, Group, Needs, Span, Stage, Way};

pub(super) fn drills() -> Vec<Drill> {
    vec![cut_in_cutover(), cut_in_each_phase(), coordinator_killed()]
}

/// Tenants that are moved; the others, on each cell one, must not notice.
const MOVED: usize = 9;

/// Every phase, and how a move comes there.
const PHASES: [(Phase, Way); 13] = [
    (Phase::Preflight, Way::Forward),
    (Phase::Prepare, Way::Forward),
    (Phase::Backfill, Way::Forward),
    (Phase::CatchUp, Way::Forward),
    (Phase::Verify, Way::Forward),
    (Phase::Sync, Way::Forward),
    (Phase::Hold, Way::Forward),
    (Phase::Fenced, Way::Forward),
    (Phase::Activate, Way::Forward),
    (Phase::Soak, Way::Forward),
    (Phase::Unfence, Way::Cancelled(Phase::Fenced)),
    (Phase::Cleanup, Way::Cancelled(Phase::Sync)),
    (Phase::Activate, Way::Back),
];

fn script(phases: &[(Phase, Way)], blow: Blow) -> Vec<Act> {
    let meet = |(index, (phase, way)): (usize, &(Phase, Way))| Act::Meet {
        tenant: index % MOVED,
        phase: *phase,
        way: *way,
        blow,
    };
    phases.iter().enumerate().map(meet).collect()
}

/// One expectation for each phase: having met the others proves nothing of it.
fn met(phases: &[(Phase, Way)]) -> Vec<Expect> {
    let expect = |(phase, way): &(Phase, Way)| match way {
        Way::Back => Expect::FaultOnTheWayBack(*phase),
        Way::Forward | Way::Cancelled(_) => Expect::FaultIn(vec![*phase]),
    };
    phases.iter().map(expect).collect()
}

/// Every move ends as it was asked to, and only its own tenant has felt anything.
fn moved() -> Vec<Expect> {
    vec![
        Expect::EndsAsAsked,
        Expect::Served(Group::NotMoving, Span::Whole, 100),
        Expect::Busy(Group::Moving),
        Expect::Back(5_000),
        Expect::Agreed,
    ]
}

fn cut_in_cutover() -> Drill {
    let phases = &PHASES[6..9];
    Drill {
        name: "cut-in-cutover",
        title: "The coordinator loses every cell while the tenant's writes are held",
        hypothesis: "A hold lapses by itself, a fence waits for the decision; nobody serves without owning, nothing \
                     is lost. When the coordinator is back, the move goes on and completes.",
        steady: SERVED,
        fault: "control nodes ⇎ all cells for a second and a half, in Hold, in Fenced and in Activate: moves are tried until each \
                is met; cells are 25 ms away",
        needs: Needs::Proxy,
        stage: Stage::default(),
        script: script(phases, Blow::CutCells),
        expects: [
            vec![Expect::Swallowed, Expect::Hurt(Group::Moving), Expect::Served(Group::Moving, Span::Fault, 90)],
            met(phases),
            moved(),
        ]
        .concat(),
    }
}

fn cut_in_each_phase() -> Drill {
    Drill {
        name: "cut-in-each-phase",
        title: "The coordinator loses every cell in each phase of a move",
        hypothesis: "Whatever a move is doing, also where it is called off or goes back: it waits, goes on when the coordinator is \
                     back, and ends as it was asked to. Nothing is lost, nobody serves without owning.",
        steady: SERVED,
        fault: "control nodes ⇎ all cells for a second and a half, once in each phase, in Unfence and Cleanup of moves that are \
                cancelled, and on the way back: moves are tried until each is met; cells are 25 ms away",
        needs: Needs::Proxy,
        stage: Stage { first_filling: Some((40, 40_000)), ..Stage::default() },
        script: script(&PHASES, Blow::CutCells),
        expects: [vec![Expect::Swallowed, Expect::Served(Group::Moving, Span::Fault, 90)], met(&PHASES), moved()]
            .concat(),
    }
}

fn coordinator_killed() -> Drill {
    Drill {
        name: "coordinator-killed",
        title: "The coordinator is killed in each phase of a move",
        hypothesis: "The next leader re-computes what is pending and goes on: every move ends as it was asked to, whatever had been \
                     done and not been noted. In the fence the one tenant waits for the election, nobody else.",
        steady: SERVED,
        fault: "SIGKILL of the leader in each phase, in Unfence and Cleanup of moves that are cancelled, and on the way back: moves \
                are tried until each is met; cells are 25 ms away",
        needs: Needs::Proxy,
        stage: Stage { first_filling: Some((40, 40_000)), ..Stage::default() },
        script: script(&PHASES, Blow::KillLeader),
        expects: [
            vec![Expect::Elected, Expect::Served(Group::Moving, Span::Whole, 97), Expect::Fresh],
            met(&PHASES),
            moved(),
        ]
        .concat(),
    }
}
