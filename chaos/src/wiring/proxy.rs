//! Wires in user space: in front of every server stands a forwarder that knows which of our processes calls.
//!
//! Who calls is found as `ss -p` finds it: both ends of its connection lead to a socket in `/proc/net/tcp`, and the socket to
//! the process that holds it. A caller that is none of ours (the drill itself, its clients) is never cut off; one that cannot
//! be found is refused, since it could be anybody.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::link::{Condition, Front, Lane, LinkError, Pipe};
use crate::process::Roster;
use crate::seed::Choices;

/// A caller that is none of our processes.
const OUTSIDE: &str = "outside";
/// The kernel's table is read in pieces while connections come and go, so a socket that is there may be passed over. It is
/// looked for so often,
const LOOKS: u32 = 100;
/// with so long between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

type Pair = (String, String);

#[derive(Debug, Clone, Default)]
struct Lanes {
    all: Arc<Mutex<BTreeMap<Pair, Lane>>>,
    seed: Arc<AtomicU64>,
}

impl Lanes {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Pair, Lane>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, from: &str, to: &str) -> Lane {
        let seed = self.seed.load(Ordering::Relaxed);
        let pair = (from.to_owned(), to.to_owned());
        self.all().entry(pair).or_insert_with_key(|pair| Lane::seeded(seed_of(seed, pair))).clone()
    }
}

/// Each lane has choices of its own, whichever is made first.
fn seed_of(seed: u64, (from, to): &Pair) -> u64 {
    let letters = from.bytes().chain([b'>']).chain(to.bytes());
    letters.fold(seed, |seed, letter| Choices::new(seed).part(u64::from(letter)).number())
}

/// See the module.
#[derive(Debug)]
pub struct Proxy {
    roster: Roster,
    lanes: Lanes,
    fronts: Vec<Front>,
}

impl Proxy {
    /// Nothing is wired yet.
    #[must_use]
    pub fn new(roster: Roster) -> Self {
        Self { roster, lanes: Lanes::default(), fronts: Vec::new() }
    }

    pub(super) async fn front(&mut self, owner: &str, address: &str) -> Result<String, LinkError> {
        let (roster, lanes, owner) = (self.roster.clone(), self.lanes.clone(), owner.to_owned());
        let choose = move |caller: SocketAddr, called: SocketAddr| {
            let name = who_holds(caller, called, &roster)?;
            Some((lanes.of(&name, &owner), lanes.of(&owner, &name)))
        };
        let front = Front::open(address, Arc::new(choose)).await?;
        let address = front.address().to_string();
        self.fronts.push(front);
        Ok(address)
    }

    pub(super) fn set(&self, from: &str, to: &str, condition: Condition) {
        self.lanes.of(from, to).set(condition);
    }

    /// Losses and delays follow this seed from now on.
    pub(super) fn seed(&self, seed: u64) {
        self.lanes.seed.store(seed, Ordering::Relaxed);
        self.lanes.all().iter().for_each(|(pair, lane)| lane.seed(seed_of(seed, pair)));
    }

    /// Whatever a process sends passes one pipe, to whomever, to strangers too.
    pub(super) fn narrow(&self, from: &str, all: &[String], bytes_per_second: u64) {
        let pipe = Pipe::new(bytes_per_second);
        for to in all.iter().map(String::as_str).filter(|to| *to != from).chain([OUTSIDE]) {
            self.lanes.of(from, to).narrow(Some(pipe.clone()));
        }
    }

    pub(super) fn heal(&self) {
        for lane in self.lanes.all().values() {
            lane.set(Condition::default());
            lane.narrow(None);
        }
    }

    /// Pieces that were lost, and pieces that have overtaken another.
    pub(super) fn disorder(&self) -> (u64, u64) {
        let all = self.lanes.all();
        (all.values().map(Lane::lost).sum(), all.values().map(Lane::overtaken).sum())
    }

    pub(super) fn held(&self) -> u64 {
        self.lanes.all().values().map(Lane::held).sum()
    }

    /// Bytes that lanes have carried while they did not carry as they do without a fault.
    pub(super) fn slowed_bytes(&self) -> u64 {
        self.lanes.all().values().map(Lane::slowed_bytes).sum()
    }
}

/// Which of our processes has the caller's end of a connection, or that none has. None: the connection is not there (any more).
fn who_holds(caller: SocketAddr, called: SocketAddr, roster: &Roster) -> Option<String> {
    let (SocketAddr::V4(caller), SocketAddr::V4(called)) = (caller, called) else { return None };
    let inode = (0..LOOKS).find_map(|look| {
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        inode_of(&std::fs::read_to_string("/proc/net/tcp").ok()?, caller, called)
    })?;
    let socket = format!("socket:[{inode}]");
    let holder = roster.all().into_iter().find(|(pid, _)| holds(*pid, &socket));
    Some(holder.map_or_else(|| OUTSIDE.to_owned(), |(_, name)| name))
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == Path::new(socket)))
}

/// Finds a socket in the table as the kernel prints it, by both of its ends: connections to several servers may share a port, and
/// those that have ended share it, too, with no inode.
fn inode_of(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<u64> {
    let wanted = [local, remote].map(|end| hex(*end.ip(), end.port()));
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_wanted = fields.get(1..3).is_some_and(|ends| ends.iter().eq(wanted.iter()));
        fields.get(9).filter(|_| is_wanted)?.parse().ok().filter(|inode| *inode != 0)
    })
}

/// As `/proc/net/tcp` writes an address: the bytes as one number of this machine, in hex.
fn hex(ip: Ipv4Addr, port: u16) -> String {
    format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_socket_is_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1\n   \
                     1: 0100007F:D431 0100007F:1F91 06 00000000:00000000 03:00000000 00000000     0        0 0 3\n   \
                     2: 0100007F:D431 0100007F:1F92 01 00000000:00000000 00:00000000 00000000     0        0 333 1\n   \
                     3: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 222 1\n";
        let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        assert_eq!(inode_of(table, at(0xd431), at(0x1f90)), Some(222));
        assert_eq!(inode_of(table, at(0xd431), at(0x1f92)), Some(333));
        assert_eq!(inode_of(table, at(0xd431), at(0x1f91)), None, "that one has ended");
        assert_eq!(inode_of(table, at(0xd432), at(0x1f90)), None);
    }

    #[tokio::test]
    async fn a_caller_is_known_by_name_and_cut_off_by_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let roster = Roster::default();
        let mut proxy = Proxy::new(roster.clone());
        let front = proxy.front("server", &address).await.unwrap();
        let patience = std::time::Duration::from_millis(300);
        let ask = async |stream: &mut tokio::net::TcpStream| {
            stream.write_all(b"x").await.unwrap();
            tokio::time::timeout(patience, stream.read_u8()).await.is_ok()
        };

        proxy.set("caller", "server", Condition { open: false, ..Condition::default() });
        let mut unknown = tokio::net::TcpStream::connect(&front).await.unwrap();
        assert!(ask(&mut unknown).await, "a stranger is not cut off");

        roster.enter(std::process::id(), "caller");
        let mut known = tokio::net::TcpStream::connect(&front).await.unwrap();
        assert!(!ask(&mut known).await);
        assert!(proxy.held() > 0);
        proxy.heal();
        assert_eq!(tokio::time::timeout(patience, known.read_u8()).await.unwrap().unwrap(), b'x');
    }
}
