//! Sockets go to the thread with the fewest connections, where the kernel has dealt them out unevenly.
//!
//! The kernel deals by a hash of addresses. Among many short connections that is even; a few long ones can all end up on
//! one thread and leave the others idle. So a thread that has clearly more than the idlest hands a new socket on before
//! it has read a byte of it.

use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// A thread hands on what it accepts once it has so many connections more than the idlest, and a quarter more.
const SKEW_MIN: usize = 4;
/// Sockets on their way to one thread. Where that is full, the socket stays where it came.
const HANDED_MAX: usize = 64;

/// A socket that another thread has accepted.
pub(crate) type Handed = (TcpStream, IpAddr);

/// One thread's view of all.
pub(crate) struct Sharing {
    index: usize,
    open: Arc<[AtomicUsize]>,
    to: Arc<[mpsc::Sender<Handed>]>,
    pub(crate) handed: mpsc::Receiver<Handed>,
}

/// A connection that counts for its thread until this is dropped.
pub(crate) struct Counted {
    index: usize,
    open: Arc<[AtomicUsize]>,
}

impl Sharing {
    /// For each of `threads` its own.
    pub(crate) fn among(threads: usize) -> Vec<Self> {
        let open: Arc<[AtomicUsize]> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        let (to, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::channel(HANDED_MAX)).unzip();
        let to: Arc<[mpsc::Sender<Handed>]> = to.into();
        let one = |(index, handed)| Self { index, open: Arc::clone(&open), to: Arc::clone(&to), handed };
        receivers.into_iter().enumerate().map(one).collect()
    }

    /// Counts a connection of this thread.
    pub(crate) fn count(&self) -> Counted {
        self.open[self.index].fetch_add(1, Ordering::Relaxed);
        Counted { index: self.index, open: Arc::clone(&self.open) }
    }

    /// Whether a new socket should go to another thread.
    pub(crate) fn has_idler(&self) -> bool {
        self.idler().is_some()
    }

    fn idler(&self) -> Option<usize> {
        let loads: Vec<usize> = self.open.iter().map(|open| open.load(Ordering::Relaxed)).collect();
        idler(&loads, self.index)
    }

    /// Hands a socket to the idlest thread; gives it back where there is none, or where it takes no more.
    pub(crate) fn hand_on(&self, socket: Handed) -> Result<(), Handed> {
        let Some(idler) = self.idler() else { return Err(socket) };
        self.to[idler].try_send(socket).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(socket) | mpsc::error::TrySendError::Closed(socket) => socket,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open[self.index].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The idlest thread, where `own` has clearly more.
fn idler(loads: &[usize], own: usize) -> Option<usize> {
    let (least, load) = loads.iter().enumerate().min_by_key(|(_, load)| **load)?;
    (loads[own] >= load + SKEW_MIN.max(load / 4)).then_some(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_with_clearly_more_hands_on() {
        assert_eq!(idler(&[0], 0), None);
        assert_eq!(idler(&[3, 0], 0), None);
        assert_eq!(idler(&[4, 0], 0), Some(1));
        assert_eq!(idler(&[4, 0], 1), None);
        assert_eq!(idler(&[120, 100, 110], 0), None, "a fifth more is even enough");
        assert_eq!(idler(&[125, 100, 110], 0), Some(1));
    }

    #[test]
    fn connections_count_for_their_thread_until_they_end() {
        let mut threads = Sharing::among(2);
        let other = threads.pop().unwrap();
        let busy: Vec<Counted> = (0..4).map(|_| other.count()).collect();
        assert!(other.has_idler() && !threads[0].has_idler());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(other.hand_on((socket, IpAddr::from([127, 0, 0, 1]))).is_ok());
        assert!(threads[0].handed.try_recv().is_ok());
        drop(busy);
        assert!(!other.has_idler());
    }
}
