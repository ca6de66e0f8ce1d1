//! What breaks, and when: a plan made from the seed before the run begins.
//!
//! Lanes run beside each other, so that a node may lose its power while the network is cut. In the store's runs:
//!
//! ```text
//! network   ──[isolate n2]────[hold n1 n3]──────[one way n3 ► n1]───[client cut off]──
//! power     ──────[n1 down]───────────────[all down]──────[n3 down]───────────────────
//! ```

mod network;

use std::fmt;
use std::time::Duration;

use crate::chance::Chance;
use crate::node::NODES;

pub(crate) use network::NetworkFault;

/// One thing that breaks for a while; `W` names those who can lose their power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault<W> {
    /// Of the network.
    Network(NetworkFault),
    /// Somebody loses its power.
    PowerOff(W),
}

impl<W: fmt::Display> fmt::Display for Fault<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(fault) => fault.fmt(f),
            Self::PowerOff(whom) => write!(f, "power off {whom}"),
        }
    }
}

/// A fault that begins or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Act<W> {
    pub(crate) at: Duration,
    pub(crate) begins: bool,
    pub(crate) fault: Fault<W>,
}

impl<W: fmt::Display> fmt::Display for Act<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nemesis: {} {}", self.fault, if self.begins { "begins" } else { "ends" })
    }
}

/// One of the lanes: what it draws, how long nothing happens in it, and how long a fault lasts, in milliseconds.
pub(crate) struct Lane<W> {
    pub(crate) name: &'static str,
    pub(crate) fault: fn(&mut Chance) -> Fault<W>,
    pub(crate) gap: (u64, u64),
    pub(crate) length: (u64, u64),
}

impl<W: Clone> Lane<W> {
    /// Faults one after another, each ended before `until`.
    fn fill(&self, seed: u64, from: Duration, until: Duration, acts: &mut Vec<Act<W>>) {
        let mut chance = Chance::of(seed, self.name);
        let mut now = from;
        loop {
            let begin = now + millis(&mut chance, self.gap);
            let end = begin + millis(&mut chance, self.length);
            let fault = (self.fault)(&mut chance);
            if end >= until {
                return;
            }
            acts.push(Act { at: begin, begins: true, fault: fault.clone() });
            acts.push(Act { at: end, begins: false, fault });
            now = end;
        }
    }
}

fn millis(chance: &mut Chance, (low, high): (u64, u64)) -> Duration {
    Duration::from_millis(chance.between(low, high))
}

/// Two different ones of these.
pub(crate) fn two_of(hosts: &[&'static str], chance: &mut Chance) -> (&'static str, &'static str) {
    let one = chance.index(hosts.len());
    let other = (one + 1 + chance.index(hosts.len() - 1)) % hosts.len();
    (hosts[one], hosts[other])
}

/// All faults of a run between two times, in their order.
pub(crate) fn plan<W: Clone>(lanes: &[Lane<W>], seed: u64, from: Duration, until: Duration) -> Vec<Act<W>> {
    let mut acts = Vec::new();
    lanes.iter().for_each(|lane| lane.fill(seed, from, until, &mut acts));
    acts.sort_by_key(|act| act.at);
    acts
}

/// Hosts of the store's runs on which there are clients; each has a watcher too.
pub(crate) const CLIENT_HOSTS: [&str; 2] = ["east", "west"];

/// Nodes of the store that lose their power together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Together(pub(crate) Vec<&'static str>);

impl fmt::Display for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

fn network_fault(chance: &mut Chance) -> Fault<Together> {
    let (one, other) = two_of(&NODES, chance);
    Fault::Network(match chance.between(0, 99) {
        0..35 => NetworkFault::Isolate(one),
        35..50 => NetworkFault::Cut(one, other),
        50..70 => NetworkFault::OneWay(one, other),
        70..90 => NetworkFault::Hold(one, other),
        _ => NetworkFault::Isolate(CLIENT_HOSTS[chance.index(CLIENT_HOSTS.len())]),
    })
}

fn power_fault(chance: &mut Chance) -> Fault<Together> {
    let (one, other) = two_of(&NODES, chance);
    Fault::PowerOff(Together(match chance.between(0, 99) {
        0..60 => vec![one],
        60..75 => vec![one, other],
        _ => NODES.to_vec(),
    }))
}

/// What breaks in the store's runs.
pub(crate) const STORE: [Lane<Together>; 2] = [
    Lane { name: "network", fault: network_fault, gap: (200, 1_500), length: (100, 2_500) },
    Lane { name: "power", fault: power_fault, gap: (500, 3_000), length: (20, 1_500) },
];
