//! All drills, by the room that they try.

mod cells;
mod clients;
mod control;
mod databases;
mod machines;
mod moves;
mod phases;

use super::Drill;

/// Every drill, in the order in which they are run.
#[must_use]
pub fn all() -> Vec<Drill> {
    [
        control::drills(),
        machines::drills(),
        cells::drills(),
        moves::drills(),
        phases::drills(),
        clients::drills(),
        databases::drills(),
    ]
    .concat()
}

/// The drill of that name.
#[must_use]
pub fn find(name: &str) -> Option<Drill> {
    all().into_iter().find(|drill| drill.name == name)
}

/// The steady state of most drills.
const SERVED: &str = "every tenant is read and written through every router, and every request is answered";
