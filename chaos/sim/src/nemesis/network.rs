//! What can happen to the simulated network, in the runs of the store and of the whole fleet.
//!
//! A link that is held delivers everything when it is released, as TCP does after a cut; a link that is cut or loses
//! packets loses them for good, and every stream on it, as a path through a firewall that has forgotten it.

use std::fmt;

use turmoil::Sim;

/// Part of the packets that a lossy link loses.
const LOSS: f64 = 0.02;

/// One thing that happens to the network for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkFault {
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
}

impl fmt::Display for NetworkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Isolate(host) => write!(f, "isolate {host}"),
            Self::Cut(one, other) => write!(f, "cut {one} {other}"),
            Self::OneWay(from, to) => write!(f, "cut one way {from} to {to}"),
            Self::Hold(one, other) => write!(f, "hold {one} {other}"),
            Self::Loss(one, other) => write!(f, "loss {one} {other}"),
        }
    }
}

impl NetworkFault {
    /// Begins or ends it. `hosts` are those from which a host can be cut off.
    pub(crate) fn apply(self, begins: bool, hosts: &[&'static str], sim: &mut Sim<'_>) {
        let cut = |one, other| if begins { sim.partition(one, other) } else { sim.repair(one, other) };
        match self {
            Self::Isolate(host) => {
                hosts.iter().filter(|other| **other != host).for_each(|other| cut(host, *other));
            }
            Self::Cut(one, other) => cut(one, other),
            Self::OneWay(from, to) if begins => sim.partition_oneway(from, to),
            Self::OneWay(from, to) => sim.repair_oneway(from, to),
            Self::Hold(one, other) if begins => sim.hold(one, other),
            Self::Hold(one, other) => sim.release(one, other),
            Self::Loss(one, other) => {
                sim.set_link_fail_rate(one, other, if begins { LOSS } else { 0.0 });
                if !begins {
                    // turmoil takes a loss for a cut, until it is repaired.
                    sim.repair(one, other);
                }
            }
        }
    }
}
