//! The databases of cells that keep their tenants in PostgreSQL: overloaded, and killed in the middle of a move.

use cell_model::Phase;

use super::SERVED;
use crate::drill::{Act, Drill, Expect, Group, Needs, Span, Stage, Who};

pub(super) fn drills() -> Vec<Drill> {
    vec![database_overload(), database_killed()]
}

fn database_overload() -> Drill {
    Drill {
        name: "database-overload",
        title: "A cell's database is overloaded by one of its tenants, and takes no more sessions",
        hypothesis: "What is slow of one tenant takes no more of its cell than one tenant may have: its requests are done, or refused \
                     with a code, within seconds, and the tenants beside it are served. Tenants of other cells notice nothing. \
                     When the database has room again, everybody is served.",
        steady: SERVED,
        fault: "a long transaction locks a row that every write of one tenant of cell-1 changes, and 40 more clients of that \
                tenant ask again at once; four seconds later somebody takes every session that the database has left",
        needs: Needs::Database,
        stage: Stage { databases: 2, ..Stage::default() },
        script: vec![
            Act::LockRows(0),
            Act::Crowd(Group::One(0), 40),
            Act::Wait(4_000),
            Act::TakeSessions(Who::Cell(0)),
            Act::Wait(4_000),
            Act::LetGo,
            Act::Disperse,
        ],
        expects: vec![
            Expect::Overloaded(8),
            Expect::Hurt(Group::One(0)),
            Expect::Bounded(Group::One(0), 5_000),
            Expect::Served(Group::Beside(0), Span::Whole, 100),
            Expect::Quick(Group::Beside(0), Span::Fault, 1_500),
            Expect::Served(Group::NotOn(0), Span::Whole, 100),
            Expect::Quick(Group::NotOn(0), Span::Fault, 500),
            Expect::Radius(Group::One(0)),
            Expect::Busy(Group::AllBut(0)),
            Expect::Back(5_000),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}

fn database_killed() -> Drill {
    Drill {
        name: "database-killed",
        title: "The database of a tenant's cell is killed while the tenant moves",
        hypothesis: "The blast radius of a cell's database is the cell's tenants exactly. The move waits for it, goes on from what the \
                     database has kept, and completes; what was acknowledged is there, at whichever cell.",
        steady: SERVED,
        fault: "the PostgreSQL server of cell-1 ends as in a power cut, while a tenant of it rests in Sync on its way to cell-2; it is \
                started again four seconds later",
        needs: Needs::Database,
        stage: Stage { databases: 2, ..Stage::default() },
        script: vec![
            Act::Move { tenant: 0, to: 1, until: Some(Phase::Sync) },
            Act::Rest,
            Act::KillDatabase(Who::Cell(0)),
            Act::Wait(4_000),
            Act::StartDatabase(Who::Cell(0)),
            Act::Resume,
            Act::Settle,
        ],
        expects: vec![
            Expect::FaultIn(vec![Phase::Sync]),
            Expect::Hurt(Group::On(0)),
            Expect::Radius(Group::On(0)),
            Expect::Served(Group::NotOn(0), Span::Whole, 100),
            Expect::Quick(Group::NotOn(0), Span::Fault, 250),
            Expect::Ends("completed"),
            Expect::Busy(Group::All),
            Expect::Back(10_000),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}
