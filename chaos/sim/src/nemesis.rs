//! What breaks, and when: a plan made from the seed before the run begins.
//!
//! Two lanes run beside each other, so that a node may lose its power while the network is cut:
//!
//! ```text
//! network   ──[isolate n2]────[hold n1 n3]──────[one way n3 ► n1]───[client cut off]──
//! power     ──────[n1 down]───────────────[all down]──────[n3 down]───────────────────
//! ```

use std::fmt;
use std::time::Duration;

use crate::chance::Chance;
use crate::node::NODES;

/// One thing that breaks for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing gets through between one host and all others.
    Isolate(&'static str),
    /// Nothing gets through between two nodes.
    Cut(&'static str, &'static str),
    /// Nothing gets through from one node to another; the other way is open.
    OneWay(&'static str, &'static str),
    /// What is sent between two nodes arrives when it is over.
    Hold(&'static str, &'static str),
    /// These nodes lose their power.
    PowerOff(Vec<&'static str>),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Isolate(host) => write!(f, "isolate {host}"),
            Self::Cut(one, other) => write!(f, "cut {one} {other}"),
            Self::OneWay(from, to) => write!(f, "cut one way {from} to {to}"),
            Self::Hold(one, other) => write!(f, "hold {one} {other}"),
            Self::PowerOff(nodes) => write!(f, "power off {}", nodes.join(" ")),
        }
    }
}

/// A fault that begins or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Act<F = Fault> {
    pub(crate) at: Duration,
    pub(crate) begins: bool,
    pub(crate) fault: F,
}

pub(crate) fn millis(chance: &mut Chance, low: u64, high: u64) -> Duration {
    Duration::from_millis(chance.between(low, high))
}

fn two_nodes(chance: &mut Chance) -> (&'static str, &'static str) {
    let one = chance.index(NODES.len());
    let other = (one + 1 + chance.index(NODES.len() - 1)) % NODES.len();
    (NODES[one], NODES[other])
}

fn network_fault(chance: &mut Chance, clients: &[&'static str]) -> Fault {
    let (one, other) = two_nodes(chance);
    match chance.between(0, 99) {
        0..35 => Fault::Isolate(one),
        35..50 => Fault::Cut(one, other),
        50..70 => Fault::OneWay(one, other),
        70..90 => Fault::Hold(one, other),
        _ => Fault::Isolate(clients[chance.index(clients.len())]),
    }
}

fn power_fault(chance: &mut Chance) -> Fault {
    let (one, other) = two_nodes(chance);
    match chance.between(0, 99) {
        0..60 => Fault::PowerOff(vec![one]),
        60..75 => Fault::PowerOff(vec![one, other]),
        _ => Fault::PowerOff(NODES.to_vec()),
    }
}

/// Faults one after another, each ended before `until`.
pub(crate) fn lane<F: Clone>(
    from: Duration,
    until: Duration,
    mut draw: impl FnMut() -> (Duration, Duration, F),
    acts: &mut Vec<Act<F>>,
) {
    let mut now = from;
    loop {
        let (gap, length, fault) = draw();
        let (begin, end) = (now + gap, now + gap + length);
        if end >= until {
            return;
        }
        acts.push(Act { at: begin, begins: true, fault: fault.clone() });
        acts.push(Act { at: end, begins: false, fault });
        now = end;
    }
}

/// All faults of a run between two times, in their order.
pub(crate) fn plan(seed: u64, from: Duration, until: Duration, clients: &[&'static str]) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut chance = Chance::of(seed, "network");
    let draw = || {
        let gap = millis(&mut chance, 200, 1_500);
        let length = millis(&mut chance, 100, 2_500);
        (gap, length, network_fault(&mut chance, clients))
    };
    lane(from, until, draw, &mut acts);
    let mut chance = Chance::of(seed, "power");
    let draw = || {
        let gap = millis(&mut chance, 500, 3_000);
        let length = millis(&mut chance, 20, 1_500);
        (gap, length, power_fault(&mut chance))
    };
    lane(from, until, draw, &mut acts);
    acts.sort_by_key(|act| act.at);
    acts
}
