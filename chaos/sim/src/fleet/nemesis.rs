//! What breaks in a fleet, and when. Three lanes run beside each other:
//!
//! ```text
//! network   ──[hold a b]───[isolate n2]──────[loss router a]──[one way a ► n3]──
//! control   ──────[leader down]──────────────────────[n1 down]──────────────────
//! cells     ───────────────[b down]──────────[router down]──────────────────────
//! ```
//! A link that is held delivers everything when it is released, as TCP does after a cut; a link that is cut or loses
//! packets loses them for good, and every stream on it, as a path through a firewall that has forgotten it.

use std::fmt;
use std::time::Duration;

use super::{CELLS, ROUTER};
use crate::chance::Chance;
use crate::nemesis::{Act, lane, millis};
use crate::node::NODES;

/// Who loses its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom {
    /// The control node that leads when it happens.
    Leader,
    /// This host.
    Host(&'static str),
}

/// One thing that breaks for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing gets through between one host and all others.
    Isolate(&'static str),
    /// Nothing gets through between two hosts.
    Cut(&'static str, &'static str),
    /// Nothing gets through from one host to another; the other way is open.
    OneWay(&'static str, &'static str),
    /// What is sent between two hosts arrives when it is over.
    Hold(&'static str, &'static str),
    /// Some of what is sent between two hosts is lost.
    Loss(&'static str, &'static str),
    /// Somebody loses its power.
    PowerOff(Whom),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Isolate(host) => write!(f, "isolate {host}"),
            Self::Cut(one, other) => write!(f, "cut {one} {other}"),
            Self::OneWay(from, to) => write!(f, "cut one way {from} to {to}"),
            Self::Hold(one, other) => write!(f, "hold {one} {other}"),
            Self::Loss(one, other) => write!(f, "loss {one} {other}"),
            Self::PowerOff(Whom::Leader) => write!(f, "power off the leader"),
            Self::PowerOff(Whom::Host(host)) => write!(f, "power off {host}"),
        }
    }
}

/// Every host that can be cut off from another one.
pub(super) fn hosts() -> Vec<&'static str> {
    NODES.into_iter().chain(CELLS).chain([ROUTER]).collect()
}

fn two_hosts(chance: &mut Chance) -> (&'static str, &'static str) {
    let hosts = hosts();
    let one = chance.index(hosts.len());
    let other = (one + 1 + chance.index(hosts.len() - 1)) % hosts.len();
    (hosts[one], hosts[other])
}

/// Two hosts between which a move or a request goes: more is to be seen there than on any link.
fn busy_pair(chance: &mut Chance) -> (&'static str, &'static str) {
    let [a, b] = CELLS;
    [(a, b), (ROUTER, a), (ROUTER, b)][chance.index(3)]
}

fn network_fault(chance: &mut Chance) -> Fault {
    let (one, other) = if chance.percent(60) { busy_pair(chance) } else { two_hosts(chance) };
    match chance.between(0, 99) {
        0..20 => Fault::Isolate(one),
        20..40 => Fault::Cut(one, other),
        40..55 => Fault::OneWay(one, other),
        55..80 => Fault::Hold(one, other),
        _ => Fault::Loss(one, other),
    }
}

fn control_fault(chance: &mut Chance) -> Fault {
    let node = NODES[chance.index(NODES.len())];
    Fault::PowerOff(if chance.percent(70) { Whom::Leader } else { Whom::Host(node) })
}

fn cell_fault(chance: &mut Chance) -> Fault {
    Fault::PowerOff(Whom::Host(match chance.between(0, 99) {
        0..40 => CELLS[0],
        40..80 => CELLS[1],
        _ => ROUTER,
    }))
}

/// One of the lanes: what it draws, how long nothing happens in it, and how long a fault lasts, in milliseconds.
struct Lane {
    name: &'static str,
    fault: fn(&mut Chance) -> Fault,
    gap: (u64, u64),
    length: (u64, u64),
}

const LANES: [Lane; 3] = [
    Lane { name: "fleet network", fault: network_fault, gap: (300, 2_500), length: (100, 3_000) },
    Lane { name: "fleet control", fault: control_fault, gap: (1_500, 6_000), length: (200, 2_500) },
    Lane { name: "fleet cells", fault: cell_fault, gap: (1_500, 6_000), length: (50, 2_000) },
];

/// All faults of a run between two times, in their order.
pub(super) fn plan(seed: u64, from: Duration, until: Duration) -> Vec<Act<Fault>> {
    let mut acts = Vec::new();
    for Lane { name, fault, gap, length } in LANES {
        let mut chance = Chance::of(seed, name);
        let draw = || {
            let gap = millis(&mut chance, gap.0, gap.1);
            let length = millis(&mut chance, length.0, length.1);
            (gap, length, fault(&mut chance))
        };
        lane(from, until, draw, &mut acts);
    }
    acts.sort_by_key(|act| act.at);
    acts
}
