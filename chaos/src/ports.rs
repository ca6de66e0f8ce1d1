//! Free ports on loopback, for processes that must be told theirs before they start.
//!
//! Ports are taken from below the range from which the kernel gives outgoing connections theirs: a port of that range
//! can be taken by anybody's connection while a killed process is down, and its restart would fail.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

/// Every port of the possible range is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no free port from {low} to {high} on loopback")]
pub struct NoFreePort {
    low: u16,
    high: u16,
}

/// Hands out each port once.
#[derive(Debug)]
pub struct Ports {
    low: u16,
    high: u16,
    next: u16,
    taken: BTreeSet<u16>,
}

impl Ports {
    const LOW: u16 = 10_240;

    /// Begins somewhere that differs from one process to the next.
    #[must_use]
    pub fn new() -> Self {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let ephemeral = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768);
        Self::within(Self::LOW, if ephemeral > Self::LOW + 1_000 { ephemeral - 1 } else { u16::MAX })
    }

    fn within(low: u16, high: u16) -> Self {
        let width = u32::from(high - low) + 1;
        let offset = std::process::id().wrapping_mul(97) % width;
        Self { low, high, next: low + u16::try_from(offset).unwrap_or(0), taken: BTreeSet::new() }
    }

    /// One that nobody listens on now and that was not handed out before.
    ///
    /// # Errors
    /// [`NoFreePort`] after the whole range has been tried.
    pub fn take(&mut self) -> Result<u16, NoFreePort> {
        for _ in self.low..=self.high {
            let port = self.next;
            self.next = if port == self.high { self.low } else { port + 1 };
            if !self.taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                self.taken.insert(port);
                return Ok(port);
            }
        }
        Err(NoFreePort { low: self.low, high: self.high })
    }

    /// As [`Self::take`], as `127.0.0.1:port`.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn address(&mut self) -> Result<String, NoFreePort> {
        self.take().map(|port| format!("127.0.0.1:{port}"))
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_handed_out_twice_nor_one_that_is_in_use() {
        let mut ports = Ports::new();
        let first = ports.take().unwrap();
        let mut again = Ports { next: first, taken: BTreeSet::new(), ..Ports::new() };
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        assert_ne!(again.take().unwrap(), first);
        drop(held);
        assert_ne!(ports.take().unwrap(), first);
    }

    #[test]
    fn a_range_that_is_used_up_is_an_error() {
        let free = Ports::new().take().unwrap();
        let mut ports = Ports::within(free, free);
        assert_eq!(ports.take(), Ok(free));
        assert_eq!(ports.take(), Err(NoFreePort { low: free, high: free }));
    }
}
