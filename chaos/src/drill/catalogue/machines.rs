//! The machine below a process breaks: disks that fail or are slow, power that goes, clocks that are wrong.

use cell_model::Phase;

use super::SERVED;
use super::cells::contained;
use super::control::unfelt;
use crate::drill::{Act, Disk, Drill, Expect, Group, Needs, Span, Stage, SyncFault, Who};

pub(super) fn drills() -> Vec<Drill> {
    vec![
        failing_sync(),
        slow_disk(),
        power_cut(),
        wall_clock(),
        monotonic_clock(),
        cell_failing_sync(),
        cell_disk_full(),
        cell_power_cut(),
    ]
}

fn failing_sync() -> Drill {
    Drill {
        name: "failing-sync",
        title: "A sync of the leader's disk fails once",
        hypothesis: "What may not be on the disk is not acknowledged: the node ends, rather than try a sync again that \
                     would then seem to succeed. Another leads, commands are kept, no tenant notices; started again, the \
                     node catches up.",
        steady: SERVED,
        fault: "EIO for one fsync or fdatasync of the leader, at a command",
        needs: Needs::Tracer,
        stage: Stage::default(),
        script: vec![
            Act::Syncs(Who::Leader, SyncFault::Fail { nth: 2 }),
            Act::Command,
            Act::Command,
            Act::Fall(Who::Victim),
            Act::Elect,
            Act::Command,
            Act::Start(Who::Victim),
            Act::Wait(1_500),
            Act::Command,
        ],
        expects: [vec![Expect::Injected(1), Expect::Fell, Expect::Elected, Expect::Commands(12_000)], unfelt()]
            .concat(),
    }
}

fn slow_disk() -> Drill {
    Drill {
        name: "slow-disk",
        title: "The disks of all control nodes take a seventh of a second longer for each sync",
        hypothesis: "Slow disks make commands slow, and nothing else: a leader leads on, a move completes, no tenant that \
                     does not move notices.",
        steady: SERVED,
        fault: "every fsync and fdatasync of every control node takes 150 ms longer, during commands and a move",
        needs: Needs::Tracer,
        stage: Stage::default(),
        script: vec![
            Act::Syncs(Who::Controls, SyncFault::Slow { ms: 150 }),
            Act::Command,
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Command,
            Act::Settle,
            Act::Command,
            Act::Mend(Who::Controls),
            Act::Command,
        ],
        expects: vec![
            Expect::Injected(20),
            Expect::Commands(8_000),
            Expect::Ends("completed"),
            Expect::Served(Group::NotMoving, Span::Whole, 100),
            Expect::Served(Group::Moving, Span::Whole, 98),
            Expect::Busy(Group::All),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}

fn power_cut() -> Drill {
    let cut = [
        Act::Command,
        Act::Command,
        Act::CutPower(Who::Control(0)),
        Act::Wait(700),
        Act::Command,
        Act::Start(Who::Control(0)),
        Act::Wait(2_000),
    ];
    Drill {
        name: "power-cut",
        title: "The power of a control node goes, twice",
        hypothesis: "What was acknowledged is on a majority of disks, synced: the node comes back from what its disk really \
                     held, catches up, and nothing that was acknowledged is missing anywhere.",
        steady: SERVED,
        fault: "control-1 stops, and starts again from what its disk held at that moment without a sync; twice",
        needs: Needs::Root,
        stage: Stage { disk: Some((Who::Control(0), Disk::Image { megabytes: 384 })), ..Stage::default() },
        script: [cut.to_vec(), cut.to_vec(), vec![Act::Command]].concat(),
        expects: [vec![Expect::PowerCuts(2), Expect::Commands(12_000)], unfelt()].concat(),
    }
}

const DAY: i64 = 86_400;

fn wall_clock() -> Drill {
    Drill {
        name: "clock-jump",
        title: "Wall clocks jump: a day ahead, back again, and behind",
        hypothesis: "Nothing that is promised rests on wall clocks. Commands and moves go on with a leader whose clock is a \
                     day ahead, whose clock jumps back in the midst of a move, and with cells and routers that are ahead and \
                     behind; no tenant that does not move notices.",
        steady: SERVED,
        fault: "the leader's clock jumps a day ahead, and back while a move is in Soak; then a cell and a router are a day \
                ahead, the leader and another cell four minutes behind",
        needs: Needs::Clock,
        stage: Stage { clocks: true, ..Stage::default() },
        script: vec![
            Act::Clock(Who::Leader, DAY),
            Act::Command,
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Reach(Phase::Soak),
            Act::Clock(Who::Victim, 0),
            Act::Settle,
            Act::Command,
            Act::Clock(Who::Cell(0), DAY),
            Act::Clock(Who::Router(0), DAY),
            Act::Clock(Who::Cell(1), -240),
            Act::Clock(Who::Leader, -240),
            Act::Wait(1_000),
            Act::Command,
            Act::Move { tenant: 3, to: 1, until: None },
            Act::Settle,
            Act::Command,
        ],
        expects: vec![
            Expect::Clocked(4),
            Expect::Commands(5_000),
            Expect::Ends("completed"),
            Expect::Served(Group::NotMoving, Span::Whole, 100),
            Expect::Served(Group::Moving, Span::Whole, 99),
            Expect::Busy(Group::All),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}

fn monotonic_clock() -> Drill {
    Drill {
        name: "clock-ahead",
        title: "A control node and a cell come back with monotonic clocks that are days ahead",
        hypothesis: "Nobody compares the monotonic clocks of two processes, or of two lives of one: leases, holds and \
                     freshness are measured by whoever grants them. Commands and a move go on; only the cell's own tenants \
                     notice that it was away.",
        steady: SERVED,
        fault: "the leader is killed and starts with clocks ten days ahead; cell-2 likewise, thirty days ahead",
        needs: Needs::TimeSpace,
        stage: Stage::default(),
        script: vec![
            Act::Kill(Who::Leader),
            Act::Elect,
            Act::StartAhead(Who::Victim, 864_000),
            Act::Kill(Who::Cell(1)),
            Act::StartAhead(Who::Cell(1), 2_592_000),
            Act::Wait(2_500),
            Act::Command,
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Settle,
            Act::Command,
        ],
        expects: vec![
            Expect::Clocked(2),
            Expect::Commands(5_000),
            Expect::Ends("completed"),
            Expect::Served(Group::On(2), Span::Whole, 100),
            Expect::Served(Group::On(0), Span::Whole, 99),
            Expect::Served(Group::On(1), Span::Whole, 80),
            Expect::Busy(Group::All),
            Expect::Back(3_000),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}

/// A cell that lost its disk for a while: its own tenants notice, and have all that was acknowledged when it is back.
fn of_a_cell(took_place: Vec<Expect>) -> Vec<Expect> {
    [took_place, vec![Expect::Radius(Group::On(0)), Expect::Back(8_000)], contained()].concat()
}

fn cell_failing_sync() -> Drill {
    Drill {
        name: "cell-failing-sync",
        title: "A sync of a cell's disk fails once",
        hypothesis: "What may not be on the disk is not acknowledged: the cell ends, rather than try a sync again that would \
                     then seem to succeed. Exactly its own tenants notice; started again it has all that was acknowledged.",
        steady: SERVED,
        fault: "EIO for one fsync or fdatasync of a thread of cell-1; it is started again a second and a half after it has ended",
        needs: Needs::Tracer,
        stage: Stage::default(),
        script: vec![
            Act::Syncs(Who::Cell(0), SyncFault::Fail { nth: 2 }),
            Act::Fall(Who::Cell(0)),
            Act::Wait(1_500),
            Act::Start(Who::Cell(0)),
        ],
        expects: of_a_cell(vec![Expect::Injected(1), Expect::Fell]),
    }
}

fn cell_disk_full() -> Drill {
    Drill {
        name: "cell-disk-full",
        title: "The disk of a cell is full to the last byte",
        hypothesis: "The cell acknowledges nothing that it cannot keep: it ends and says why. Exactly its own tenants notice. With \
                     room again it is started and has all that was acknowledged.",
        steady: SERVED,
        fault: "the file system of cell-1 is filled; it is emptied a second and a half after the cell has ended, and the cell started",
        needs: Needs::Root,
        stage: Stage { disk: Some((Who::Cell(0), Disk::Memory { megabytes: 96 })), ..Stage::default() },
        script: vec![
            Act::FillDisk(Who::Cell(0)),
            Act::Fall(Who::Cell(0)),
            Act::Wait(1_500),
            Act::EmptyDisk(Who::Cell(0)),
            Act::Start(Who::Cell(0)),
        ],
        expects: of_a_cell(vec![Expect::DiskFull, Expect::Fell]),
    }
}

fn cell_power_cut() -> Drill {
    let cut = [Act::CutPower(Who::Cell(0)), Act::Wait(700), Act::Start(Who::Cell(0)), Act::Wait(3_000)];
    Drill {
        name: "cell-power-cut",
        title: "The power of a cell goes, twice",
        hypothesis: "What a client was told is on the cell's disk, synced: it comes back from what its disk really held, and nothing \
                     that was acknowledged is missing. Exactly its own tenants notice.",
        steady: SERVED,
        fault: "cell-1 stops, and starts again from what its disk held at that moment without a sync; twice",
        needs: Needs::Root,
        stage: Stage { disk: Some((Who::Cell(0), Disk::Image { megabytes: 192 })), ..Stage::default() },
        script: [cut.clone(), cut].concat(),
        expects: of_a_cell(vec![Expect::PowerCuts(2)]),
    }
}
