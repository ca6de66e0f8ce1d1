//! What breaks in a fleet. Three lanes run beside each other:
//!
//! ```text
//! network   ──[hold a b]───[isolate n2]──────[loss router a]──[one way a ► n3]──
//! control   ──────[leader down]──────────────────────[n1 down]──────────────────
//! cells     ───────────────[b down]──────────[router down]──────────────────────
//! ```

use std::fmt;

use super::{CELLS, ROUTER};
use crate::chance::Chance;
use crate::nemesis::{Fault, Lane, NetworkFault, two_of};
use crate::node::NODES;

/// Who loses its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom {
    /// The control node that leads when it happens.
    Leader,
    /// This host.
    Host(&'static str),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "the leader",
            Self::Host(host) => host,
        })
    }
}

/// Every host that can be cut off from another one.
pub(super) fn hosts() -> Vec<&'static str> {
    NODES.into_iter().chain(CELLS).chain([ROUTER]).collect()
}

/// Two hosts between which a move or a request goes: more is to be seen there than on any link.
fn busy_pair(chance: &mut Chance) -> (&'static str, &'static str) {
    let [a, b] = CELLS;
    [(a, b), (ROUTER, a), (ROUTER, b)][chance.index(3)]
}

fn network_fault(chance: &mut Chance) -> Fault<Whom> {
    let (one, other) = if chance.percent(60) { busy_pair(chance) } else { two_of(&hosts(), chance) };
    Fault::Network(match chance.between(0, 99) {
        0..20 => NetworkFault::Isolate(one),
        20..40 => NetworkFault::Cut(one, other),
        40..55 => NetworkFault::OneWay(one, other),
        55..80 => NetworkFault::Hold(one, other),
        _ => NetworkFault::Loss(one, other),
    })
}

fn control_fault(chance: &mut Chance) -> Fault<Whom> {
    let node = NODES[chance.index(NODES.len())];
    Fault::PowerOff(if chance.percent(70) { Whom::Leader } else { Whom::Host(node) })
}

fn cell_fault(chance: &mut Chance) -> Fault<Whom> {
    Fault::PowerOff(Whom::Host(match chance.between(0, 99) {
        0..40 => CELLS[0],
        40..80 => CELLS[1],
        _ => ROUTER,
    }))
}

/// What breaks in a fleet.
pub(super) const LANES: [Lane<Whom>; 3] = [
    Lane { name: "fleet network", fault: network_fault, gap: (300, 2_500), length: (100, 3_000) },
    Lane { name: "fleet control", fault: control_fault, gap: (1_500, 6_000), length: (200, 2_500) },
    Lane { name: "fleet cells", fault: cell_fault, gap: (1_500, 6_000), length: (50, 2_000) },
];
