//! The configurations: each is a small world in which one kind of trouble has all the room that it needs.

use crate::{Bounds, Budget, Mutant};

const CALM: Budget = Budget {
    writes: 2,
    moves: 1,
    cancels: 0,
    rollbacks: 0,
    elections: 0,
    crashes: 0,
    lapses: 0,
    misses: 0,
    degrades: 0,
    failures: 0,
    damages: 0,
    cordons: 0,
    stops: 0,
    takeovers: 0,
    pauses: 0,
    rogues: 0,
    silences: 0,
    restarts: 0,
};

const CALM_BOUNDS: Bounds = Bounds {
    name: "calm",
    about: "nothing goes wrong but the order",
    budget: CALM,
    delayed: 1,
    late: 1,
    retries: 1,
    ungated: [false; 2],
    routers: 0,
    ends: true,
    reaches: &["a move completes", "a write during the copy is acknowledged", "an old copy is reclaimed"],
    mutant: None,
    off: [None; 4],
};

/// Holds that lapse, are missed, and fences that come too late.
const CUTOVER: Bounds = Bounds {
    name: "cutover",
    about: "holds lapse and are missed, the operator cancels, steps and proposals come late",
    budget: Budget { cancels: 1, lapses: 1, misses: 1, ..CALM },
    reaches: &[
        "a move completes",
        "a move is cancelled",
        "an abort after the fence",
        "a hold lapses between seal and fence",
        "a write after a lapsed hold",
    ],
    ..CALM_BOUNDS
};

const CUTOVER_LATE: Bounds = Bounds {
    name: "cutover-late",
    about: "the same with one more lapse, and two steps and two proposals late at once",
    budget: Budget { lapses: 2, ..CUTOVER.budget },
    delayed: 2,
    late: 2,
    ..CUTOVER
};

const LEADERS: Bounds = Bounds {
    name: "leaders",
    about: "the leader changes, the one before goes on, holds lapse",
    budget: Budget { elections: 1, lapses: 1, ..CALM },
    reaches: &[
        "a move completes",
        "a zombie is refused",
        "a zombie is obeyed where nobody newer has been",
        "a hold lapses between seal and fence",
    ],
    ..CALM_BOUNDS
};

const CRASHES: Bounds = Bounds {
    name: "crashes",
    about: "cells are killed and start again, the target is cordoned",
    budget: Budget { crashes: 1, cordons: 1, ..CALM },
    reaches: &["a move completes", "a move is given up", "an abort after the fence"],
    ..CALM_BOUNDS
};

const ROLLBACK: Bounds = Bounds {
    name: "rollback",
    about: "the operator brings the tenant back, holds lapse on either leg",
    budget: Budget { rollbacks: 1, lapses: 1, ..CALM },
    reaches: &[
        "a move completes",
        "a move is rolled back",
        "a rollback is aborted and the new owner goes on",
        "the new owner acknowledges a write that the old one then follows",
    ],
    ..CALM_BOUNDS
};

const SYNC: Bounds = Bounds {
    name: "sync",
    about: "the target is too slow, copies fail, cells are killed; no step comes late",
    budget: Budget { degrades: 1, failures: 1, crashes: 1, ..CALM },
    delayed: 0,
    reaches: &["a move completes", "a move is given up", "a write waits for the follower", "sync is given up"],
    ..CALM_BOUNDS
};

/// Rows of a copy become others until it has been compared, or are among those that are compared at the seal; and in soak.
const DIFFERING: Bounds = Bounds {
    name: "differing",
    about: "rows of a copy become others: they are found, told and copied anew; cells are killed",
    budget: Budget { damages: 4, crashes: 1, ..CALM },
    delayed: 0,
    late: 0,
    reaches: &[
        "a move completes",
        "a copy that differs is mended",
        "a copy that differs at the seal is compared as a whole again",
        "a copy that differs too often is given up",
        "a move rests because the old owner's copy differs",
    ],
    ..CALM_BOUNDS
};

const RETURN: Bounds = Bounds {
    name: "return",
    about: "two moves, there and back, with what the first one left behind",
    budget: Budget { moves: 2, cancels: 1, ..CALM },
    reaches: &["a tenant moves there and back", "an old copy is reclaimed", "a move is cancelled"],
    ..CALM_BOUNDS
};

const TAKEOVER: Bounds = Bounds {
    name: "takeover",
    about: "the owner stops, the other cell is made the owner by force, and the old one comes back",
    budget: Budget { stops: 1, takeovers: 1, degrades: 1, ..CALM },
    delayed: 0,
    reaches: &[
        "a tenant is taken over and nothing is lost",
        "a tenant is taken over and writes are missing",
        "a tail is put aside and the new owner goes on",
        "a cell that was taken over has started and asks",
        "the new owner is taken over by the old one",
    ],
    ..CALM_BOUNDS
};

/// A leader that was deposed before the takeover goes on, and a step of it meets a cell that has just started.
const TAKEOVER_LEADERS: Bounds = Bounds {
    name: "takeover-leaders",
    about: "the same while the leader changes and the one before goes on",
    budget: Budget { elections: 1, degrades: 0, ..TAKEOVER.budget },
    late: 0,
    ..TAKEOVER
};

/// The way back: the old owner is activated again, and is lost before the store has heard of it.
const TAKEOVER_BACK: Bounds = Bounds {
    name: "takeover-back",
    about: "the same while the operator brings the tenant back",
    budget: Budget { rollbacks: 1, degrades: 0, ..TAKEOVER.budget },
    late: 0,
    reaches: &[
        "a tenant is taken over and writes are missing",
        "a cell that was taken over has started and asks",
        "a tenant is taken over on its way back",
    ],
    ..TAKEOVER
};

/// An operator pauses and resumes.
const STEERED: Bounds = Bounds {
    name: "steered",
    about: "the operator pauses, resumes, cancels and brings the tenant back",
    budget: Budget { pauses: 1, rollbacks: 1, cancels: 1, ..CALM },
    delayed: 0,
    reaches: &["a move completes", "a move is rolled back", "a move is cancelled"],
    ..CALM_BOUNDS
};

/// Neither cell has a gate, and what comes past the router is fenced by databases alone.
const UNGATED: Bounds = Bounds {
    name: "ungated",
    about: "no cell has a gate: a router goes by an old table, is cut off, is killed; its pings and answers come late or are lost",
    budget: Budget { silences: 1, restarts: 1, ..CALM },
    ungated: [true; 2],
    routers: 1,
    delayed: 0,
    late: 0,
    reaches: &[
        "a move completes",
        "a hold waits for a router that has not seen it",
        "a hold waits for a write that a router has sent",
        "a hold goes on without a router whose lease has run out",
        "a write of a router that was cut off meets the fence",
        "writes wait until a new owner without a gate may serve",
        "a router sends to the new owner",
    ],
    ..CALM_BOUNDS
};

/// The leader changes, and the one before has granted leases.
const UNGATED_LEADERS: Bounds = Bounds {
    name: "ungated-leaders",
    about: "the same while the leader changes and the one before goes on",
    budget: Budget { writes: 1, elections: 1, restarts: 0, ..UNGATED.budget },
    reaches: &[
        "a move completes",
        "a new leader waits for leases of the one before",
        "a zombie is refused",
        "a zombie is obeyed where nobody newer has been",
        "a router sends to the new owner",
    ],
    ..UNGATED
};

/// Only the target has no gate: on the way back it is the one that is left.
const UNGATED_TARGET: Bounds = Bounds {
    name: "ungated-target",
    about: "only the target has no gate, and the operator brings the tenant back",
    budget: Budget { rollbacks: 1, restarts: 0, ..UNGATED.budget },
    ungated: [false, true],
    reaches: &[
        "a move completes",
        "a move is rolled back",
        "a way back waits for a router",
        "a router sends to the new owner",
        "writes wait until a new owner without a gate may serve",
    ],
    ..UNGATED
};

/// For `cargo test`: each kind of trouble with the least room.
pub const SMALL: &[Bounds] = &[
    small(CALM_BOUNDS),
    small(CUTOVER),
    small(LEADERS),
    small(CRASHES),
    small(ROLLBACK),
    small(SYNC),
    small(RETURN),
    small(DIFFERING),
    small(STEERED),
    small(UNGATED),
    Bounds { late: 0, ..TAKEOVER },
    Bounds { budget: Budget { writes: 1, ..TAKEOVER_BACK.budget }, ..TAKEOVER_BACK },
];

/// One write, and either steps or proposals that come late, not both.
const fn small(bounds: Bounds) -> Bounds {
    let budget = Budget { writes: 1, ..bounds.budget };
    Bounds { budget, late: if bounds.delayed > 0 { 0 } else { bounds.late }, ..bounds }
}

/// The step back to answering alone (`EngageSync(false)`) is delivered a second time, after Sync was engaged anew. Once it
/// was obeyed: the owner then answered alone while the store said that it did not. Since then re-entering Sync is a new
/// attempt, and this configuration keeps it so.
pub const LATE_DISENGAGE: Bounds = Bounds {
    name: "late-disengage",
    about: "sync is given up and engaged again, and one step comes late",
    budget: Budget { degrades: 1, ..CALM },
    delayed: 1,
    late: 0,
    ends: false,
    reaches: &[],
    ..CALM_BOUNDS
};

/// For every change: exhaustive, within a minute or so on two cores.
pub const CI: &[Bounds] = &[
    CALM_BOUNDS,
    CUTOVER,
    LEADERS,
    CRASHES,
    ROLLBACK,
    SYNC,
    RETURN,
    DIFFERING,
    STEERED,
    TAKEOVER,
    TAKEOVER_LEADERS,
    TAKEOVER_BACK,
    UNGATED,
    UNGATED_LEADERS,
    UNGATED_TARGET,
    LATE_DISENGAGE,
    CUTOVER_LATE,
];

/// For a night.
pub const LONG: &[Bounds] = &[
    Bounds { name: "leaders-long", budget: Budget { elections: 2, misses: 1, ..LEADERS.budget }, ..LEADERS },
    Bounds { name: "crashes-long", budget: Budget { crashes: 2, lapses: 1, ..CRASHES.budget }, ..CRASHES },
    Bounds { name: "rollback-long", budget: Budget { elections: 1, crashes: 1, ..ROLLBACK.budget }, ..ROLLBACK },
    Bounds {
        name: "return-long",
        budget: Budget { elections: 1, lapses: 1, rollbacks: 1, ..RETURN.budget },
        ..RETURN
    },
    Bounds {
        name: "ungated-missed",
        about: "no cell has a gate, holds are missed and lapse",
        budget: Budget { misses: 1, lapses: 1, ..UNGATED.budget },
        ..UNGATED
    },
    Bounds {
        name: "ungated-late",
        about: "only the source has no gate; the operator cancels, steps, pings and proposals come late, some a second time",
        budget: Budget { writes: 1, cancels: 1, lapses: 1, restarts: 0, ..UNGATED.budget },
        ungated: [true, false],
        delayed: 1,
        late: 1,
        reaches: &["a move completes", "a move is cancelled", "a hold lapses between seal and fence"],
        ..UNGATED
    },
    Bounds {
        name: "ungated-two",
        about: "no cell has a gate, and there are two routers",
        routers: 2,
        budget: Budget { writes: 2, silences: 2, ..UNGATED.budget },
        ..UNGATED
    },
    Bounds {
        name: "ungated-long",
        about: "the same with a change of the leader, cells that are killed, a rollback, and words that come late",
        budget: Budget { elections: 1, crashes: 1, rollbacks: 1, misses: 1, ..UNGATED.budget },
        routers: 2,
        delayed: 1,
        late: 1,
        ..UNGATED
    },
    Bounds { name: "takeover-late", about: "a takeover, and a step that comes late", delayed: 1, ..TAKEOVER },
    Bounds {
        name: "takeover-long",
        about: "the same with a change of the leader, a rollback, lapses, and a step that comes late",
        budget: Budget { elections: 1, rollbacks: 1, lapses: 1, ..TAKEOVER.budget },
        delayed: 1,
        ..TAKEOVER
    },
];

/// Everything at once: too large to be exhausted, walked at random.
pub const EVERYTHING: Bounds = Bounds {
    name: "everything",
    about: "every kind of trouble at once, at random",
    budget: Budget {
        writes: 6,
        moves: 3,
        cancels: 1,
        rollbacks: 1,
        elections: 3,
        crashes: 3,
        lapses: 3,
        misses: 2,
        degrades: 1,
        failures: 1,
        damages: 0,
        cordons: 1,
        stops: 1,
        takeovers: 1,
        pauses: 1,
        rogues: 0,
        silences: 0,
        restarts: 0,
    },
    delayed: 2,
    late: 2,
    retries: 3,
    reaches: &[],
    ..CALM_BOUNDS
};

/// The configuration in which the lack of a guard must show.
#[must_use]
pub const fn that_catches(mutant: Mutant) -> Bounds {
    let bounds = match mutant {
        Mutant::EpochUnchecked
        | Mutant::FenceWithoutSeal
        | Mutant::ServesBeforeCommit
        | Mutant::CommitWithoutFence
        | Mutant::CommitWithoutApplied
        | Mutant::CommitKeepsEpoch
        | Mutant::FenceTimesOut => CUTOVER,
        Mutant::TermIgnored => LEADERS,
        Mutant::FenceForgotten | Mutant::AbortKeepsEpoch => CRASHES,
        Mutant::DifferenceOverlooked => DIFFERING,
        Mutant::FormerLeasesForgotten | Mutant::LeaseWithoutQuorum => UNGATED_LEADERS,
        Mutant::DatabaseUnfenced
        | Mutant::RoutersNotAwaited
        | Mutant::LeaseNotAwaited
        | Mutant::SendingUntold
        | Mutant::LeaseIgnored
        | Mutant::EnteredBeforeActivated => UNGATED,
        Mutant::AnsweredBeforeApplied | Mutant::UnknownReplayed | Mutant::ChangeAppliedTwice => SYNC,
        Mutant::TakeoverWithoutEvidence
        | Mutant::TakeoverWhileDegraded
        | Mutant::TailMerged
        | Mutant::StartsWithoutAsking => TAKEOVER,
        Mutant::DropsWhatItOwns | Mutant::ReclaimsWithoutLooking | Mutant::CopyInTheWayIgnored => RETURN,
    };
    // Without these two nothing unsafe happens, because cells refuse; but the move never ends.
    let ends = matches!(mutant, Mutant::AbortKeepsEpoch | Mutant::CopyInTheWayIgnored);
    Bounds { reaches: &[], ends, ..bounds.without(mutant) }
}
