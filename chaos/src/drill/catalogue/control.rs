//! The control plane breaks. Tenants that do not move must not notice.

use std::time::Duration;

use super::SERVED;
use crate::drill::{Act, Disk, Drill, Expect, Group, Needs, Span, Stage, Who};
use crate::link::Condition;

pub(super) fn drills() -> Vec<Drill> {
    vec![
        leader_alone(),
        outage(),
        router_alone(),
        one_way_in(),
        one_way_out(),
        slow_network(),
        narrow_link(),
        full_disk(),
    ]
}

/// Nobody feels it, and everything agrees in the end.
pub(super) fn unfelt() -> Vec<Expect> {
    vec![
        Expect::Served(Group::All, Span::Whole, 100),
        Expect::Quick(Group::All, Span::Fault, 1_000),
        Expect::Busy(Group::All),
        Expect::Fresh,
        Expect::Agreed,
    ]
}

fn leader_alone() -> Drill {
    Drill {
        name: "leader-alone",
        title: "The leader of the mapping store is cut off from the other control nodes",
        hypothesis: "The two others elect a leader and take commands within seconds; the one that is alone \
                     acknowledges nothing that is lost later, although routers and cells still reach it; no tenant notices, \
                     and a move goes on under the new leader.",
        steady: SERVED,
        fault: "leader ⇎ the other two control nodes, for about eight seconds, with a move and commands meanwhile",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Wait(300),
            Act::Cut(Who::Leader, Who::OtherControls),
            Act::Elect,
            Act::Command,
            Act::Command,
            Act::Settle,
            Act::Wait(3_000),
            Act::Heal,
            Act::Command,
        ],
        expects: [
            vec![Expect::Swallowed, Expect::Elected, Expect::Commands(8_000), Expect::Ends("completed")],
            vec![
                Expect::Served(Group::NotMoving, Span::Whole, 100),
                Expect::Served(Group::Moving, Span::Whole, 99),
                Expect::Back(1_000),
                Expect::Busy(Group::All),
                Expect::Fresh,
                Expect::Agreed,
            ],
        ]
        .concat(),
    }
}

fn outage() -> Drill {
    Drill {
        name: "control-outage",
        title: "Every control node is killed, and a router restarts meanwhile",
        hypothesis: "Routers serve from their last table, one that starts without a control plane from its file; no \
                     request of any tenant fails. When the control plane is back, it takes commands at once and routers are \
                     fresh again.",
        steady: SERVED,
        fault: "SIGKILL of all three control nodes, for about nine seconds; each router restarts once",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Kill(Who::Controls),
            Act::Wait(2_500),
            Act::Restart(Who::Router(1)),
            Act::Wait(1_500),
            Act::Restart(Who::Router(0)),
            Act::Wait(1_500),
            Act::Start(Who::Controls),
            Act::Elect,
            Act::Command,
        ],
        expects: [vec![Expect::Elected, Expect::Commands(8_000)], unfelt()].concat(),
    }
}

fn router_alone() -> Drill {
    Drill {
        name: "router-alone",
        title: "A router is cut off from the control plane while a tenant moves",
        hypothesis: "The router goes on from its last table. The tenant that moves costs it one detour: the former \
                     owner, which serves nothing any more, hands out the signed mapping. No request fails.",
        steady: SERVED,
        fault: "router-2 ⇎ control nodes, from before a move until after it",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Cut(Who::Router(1), Who::Controls),
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Settle,
            Act::Wait(1_000),
            Act::Heal,
        ],
        expects: [vec![Expect::Swallowed, Expect::Redirected(1), Expect::Ends("completed")], unfelt()].concat(),
    }
}

fn one_way(name: &'static str, title: &'static str, fault: &'static str, cut: Act) -> Drill {
    Drill {
        name,
        title,
        hypothesis: "A connection that works in one direction is worse than none: whoever cannot be answered must not \
                     go on leading in name only. Commands are taken again within seconds, what was acknowledged stays, and \
                     no tenant notices.",
        steady: SERVED,
        fault,
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![cut, Act::Wait(2_500), Act::Command, Act::Wait(2_000), Act::Command, Act::Heal, Act::Command],
        expects: [vec![Expect::Swallowed, Expect::Commands(12_000)], unfelt()].concat(),
    }
}

fn one_way_in() -> Drill {
    one_way(
        "leader-deaf",
        "The leader can send to the other control nodes and hears nothing of them",
        "the other two ⇏ leader, for about five seconds",
        Act::CutOneWay(Who::OtherControls, Who::Leader),
    )
}

fn one_way_out() -> Drill {
    one_way(
        "leader-mute",
        "The leader hears the other control nodes and cannot send to them",
        "leader ⇏ the other two, for about five seconds",
        Act::CutOneWay(Who::Leader, Who::OtherControls),
    )
}

fn slow_network() -> Drill {
    let slow = Condition {
        delay: Duration::from_millis(8),
        jitter: Duration::from_millis(8),
        loss_percent: 2,
        ..Condition::default()
    };
    Drill {
        name: "slow-network",
        title: "The network between control nodes, and from there to cells, is slow and loses packets",
        hypothesis: "A round trip of a fiftieth of a second with losses costs time and nothing else: commands and a move \
                     go through, no tenant that does not move notices.",
        steady: SERVED,
        fault: "8–16 ms each way and 2 % loss between all control nodes, and between them and all cells; about ten seconds",
        needs: Needs::Proxy,
        stage: Stage::default(),
        script: vec![
            Act::Shape(Who::Controls, Who::Controls, slow),
            Act::Shape(Who::Controls, Who::Cells, slow),
            Act::Wait(1_000),
            Act::Command,
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Settle,
            Act::Command,
            Act::Heal,
        ],
        expects: vec![
            Expect::Slowed,
            Expect::Lost,
            Expect::Commands(8_000),
            Expect::Ends("completed"),
            Expect::Served(Group::NotMoving, Span::Whole, 100),
            Expect::Served(Group::Moving, Span::Whole, 99),
            Expect::Busy(Group::All),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}

fn narrow_link() -> Drill {
    Drill {
        name: "narrow-link",
        title: "A cell has little bandwidth while a large tenant leaves it",
        hypothesis: "The copy takes what is left and takes its time; requests to the same cell are answered meanwhile, and \
                     the move completes.",
        steady: SERVED,
        fault: "cell-1 sends at most 600 kB a second, while 3 MB of a tenant are copied out of it",
        needs: Needs::Any,
        stage: Stage { first_filling: Some((150, 20_000)), ..Stage::default() },
        script: vec![
            Act::Narrow(Who::Cell(0), 600_000),
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Settle,
            Act::Heal,
        ],
        expects: vec![
            Expect::Slowed,
            Expect::Ends("completed"),
            Expect::Served(Group::All, Span::Whole, 100),
            Expect::Busy(Group::All),
            Expect::Back(1_000),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}

fn full_disk() -> Drill {
    Drill {
        name: "full-disk",
        title: "The disk of a control node is full to the last byte",
        hypothesis: "The node says that it has no room and acknowledges nothing that it cannot keep; the others take \
                     commands; no tenant notices. With room again it catches up.",
        steady: SERVED,
        fault: "the file system of control-1, which does not lead, is filled, for about six seconds",
        needs: Needs::Root,
        stage: Stage { disk: Some((Who::Control(0), Disk::Memory { megabytes: 160 })), ..Stage::default() },
        script: vec![
            // A leader without room refuses commands, and says so: here the others are to take them.
            Act::HandOver(Who::Control(0)),
            Act::FillDisk(Who::Control(0)),
            Act::Wait(1_500),
            Act::Command,
            Act::Command,
            Act::Wait(3_000),
            Act::Command,
            Act::EmptyDisk(Who::Control(0)),
            Act::Wait(2_000),
            Act::Command,
        ],
        expects: [vec![Expect::DiskFull, Expect::Commands(12_000)], unfelt()].concat(),
    }
}
