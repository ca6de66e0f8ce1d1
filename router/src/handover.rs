//! A new process takes over the listening sockets of the old one, so that a restart refuses no connection and drops none:
//! the sockets themselves pass, with whatever waits in them to be accepted.
//!
//! ```text
//! new                                   old  (listens at `handover-socket`)
//!  │ connect ───────────────────────────►│ is it the same user?
//!  │◄─ addresses and sockets ────────────│
//!  │ loads its table, serves             │ serves, too
//!  │ "ready" ───────────────────────────►│ accepts no more; answers say `connection: close`; finishes what it has
//!  │ listens at `handover-socket`        ╳
//! ```
//! A new process that dies before it is ready leaves the old one as it was.
//!
//! With the addresses goes what the old process has found out of how many requests each cell may have at once: the new one would begin
//! with few, and refuse what the old one had let in.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cell_model::CellId;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

/// The kernel takes 253 at once.
pub(crate) const SOCKETS_MAX: usize = 250;
/// One message of a local socket holds it.
const HEAD_BYTES_MAX: usize = 16 * 1_024;
const READY: &[u8] = b"ready\n";
/// How long the old process takes to hand its sockets over.
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the old process waits for the new one to have its table.
const READY_TIME_MAX: Duration = Duration::from_secs(60);

/// What is said before the sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    version: u32,
    listen: SocketAddr,
    admin: SocketAddr,
    /// How many sockets are for clients; the one for operators comes last.
    listeners: usize,
    /// Limits of cells, the highest first, as many as there is room for.
    #[serde(default)]
    limits: Vec<(CellId, u32)>,
}

impl Head {
    fn encode(mut self) -> io::Result<Vec<u8>> {
        loop {
            let bytes = serde_json::to_vec(&self).map_err(io::Error::other)?;
            if bytes.len() <= HEAD_BYTES_MAX || self.limits.is_empty() {
                return Ok(bytes);
            }
            self.limits.truncate(self.limits.len() / 2);
        }
    }
}

const VERSION: u32 = 1;

/// Sockets that another process listened at before.
pub(crate) struct Inherited {
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) admin: TcpListener,
    /// How many requests each cell may have at once, as the other process has found out.
    pub(crate) limits: BTreeMap<CellId, u32>,
    /// To say that this process serves.
    pub(crate) old: Old,
}

/// The process that has handed over, and still serves.
pub(crate) struct Old(UnixStream);

impl Old {
    /// This process serves now: the old one accepts no more.
    pub(crate) fn ready(mut self) -> io::Result<()> {
        self.0.write_all(READY)
    }
}

/// The sockets of the process that listens at `path`. None: nobody does.
pub(crate) fn take_over(path: &Path, listen: SocketAddr, admin: SocketAddr) -> io::Result<Option<Inherited>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        // A path that a dead process has left behind, or none at all.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(EXCHANGE_TIME_MAX))?;
    let mut bytes = [0; HEAD_BYTES_MAX];
    let (length, mut sockets) = receive(&stream, &mut bytes)?;
    let head: Head = serde_json::from_slice(&bytes[..length])
        .map_err(|error| io::Error::other(format!("the other process does not say what it hands over: {error}")))?;
    let same = |given: SocketAddr, wanted: SocketAddr| {
        given == wanted || (wanted.port() == 0 && given.ip() == wanted.ip())
    };
    if head.version != VERSION || head.listeners + 1 != sockets.len() || head.listeners == 0 {
        return Err(io::Error::other(format!(
            "the other process hands over what this one does not understand: {head:?}"
        )));
    }
    if !same(head.listen, listen) || !same(head.admin, admin) {
        let text = format!(
            "the other process listens at {} and {}, and this one is to listen at {listen} and {admin}",
            head.listen, head.admin
        );
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
    }
    let admin = sockets.pop().map(TcpListener::from).ok_or(io::ErrorKind::UnexpectedEof)?;
    let listeners: Vec<TcpListener> = sockets.into_iter().map(TcpListener::from).collect();
    for listener in listeners.iter().chain([&admin]) {
        listener.set_nonblocking(true)?;
    }
    Ok(Some(Inherited { listeners, admin, limits: head.limits.into_iter().collect(), old: Old(stream) }))
}

/// Hands sockets over to whoever of the same user asks.
pub(crate) struct Giver {
    path: PathBuf,
    listener: UnixListener,
    head: Head,
    sockets: Vec<TcpListener>,
    limits: Limits,
    /// Another process has them, too.
    lent: Arc<AtomicBool>,
}

/// What says the limits of now.
pub(crate) type Limits = Box<dyn Fn() -> Vec<(CellId, u32)> + Send + Sync>;

impl Giver {
    /// Listens at `path`, in place of whoever did before.
    pub(crate) fn listen(
        path: &Path,
        listen: SocketAddr,
        admin: SocketAddr,
        sockets: Vec<TcpListener>,
        limits: Limits,
    ) -> io::Result<Self> {
        if sockets.len() > SOCKETS_MAX {
            return Err(io::Error::other(format!("{} sockets are more than can be handed over", sockets.len())));
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        let head = Head { version: VERSION, listen, admin, listeners: sockets.len() - 1, limits: Vec::new() };
        Ok(Self { path: path.to_owned(), listener, head, sockets, limits, lent: Arc::default() })
    }

    /// Whether another process has the sockets, too, whoever serves: what is done to them is done to its own.
    pub(crate) fn lent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lent)
    }

    /// Done when another process serves with these sockets.
    pub(crate) async fn handed_over(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match self.give(stream).await {
                    Ok(()) => return,
                    Err(error) => {
                        self.lent.store(false, Ordering::Release);
                        tracing::warn!(%error, "another process asked for the sockets and does not serve: this one goes on")
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, path = %self.path.display(), "cannot accept at the handover socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn give(&self, stream: tokio::net::UnixStream) -> io::Result<()> {
        let (asks, ours) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
        if asks != ours {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it is of user {asks}, not {ours}"),
            ));
        }
        let mut limits = (self.limits)();
        limits.sort_by_key(|(_, limit)| std::cmp::Reverse(*limit));
        let head = Head { limits, ..self.head.clone() }.encode()?;
        let sockets = self.sockets.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
        let mut stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        self.lent.store(true, Ordering::Release);
        let exchange = tokio::task::spawn_blocking(move || {
            stream.set_write_timeout(Some(EXCHANGE_TIME_MAX))?;
            send(&stream, &head, &sockets)?;
            drop(sockets);
            stream.set_read_timeout(Some(READY_TIME_MAX))?;
            let mut said = [0; READY.len()];
            stream.read_exact(&mut said)?;
            if said == READY {
                Ok(())
            } else {
                Err(io::Error::other("it says something else than that it is ready"))
            }
        });
        exchange.await.map_err(io::Error::other)?
    }
}

fn send(stream: &UnixStream, head: &[u8], sockets: &[TcpListener]) -> io::Result<()> {
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("more sockets than can be handed over"));
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(head)], &mut control, SendFlags::empty())?;
    if sent == head.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn receive(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    Ok((received.bytes, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::{listen_alone, listen_shared};

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn sockets() -> (SocketAddr, SocketAddr, Vec<TcpListener>) {
        let mut sockets = listen_shared(any(), 2).unwrap();
        sockets.push(listen_alone(any()).unwrap());
        (sockets[0].local_addr().unwrap(), sockets[2].local_addr().unwrap(), sockets)
    }

    fn limits() -> Vec<(CellId, u32)> {
        [("small", 9), ("large", 207)].map(|(cell, limit)| (CellId::new(cell).unwrap(), limit)).to_vec()
    }

    #[test]
    fn of_more_limits_than_there_is_room_for_the_highest_go() {
        let (listen, admin) = (any(), any());
        let cell = |n: u32| (CellId::new(format!("a-cell-with-a-long-name-{n:05}")).unwrap(), 10_000 - n);
        let head = Head { version: VERSION, listen, admin, listeners: 1, limits: (0..5_000).map(cell).collect() };
        let bytes = head.encode().unwrap();
        assert!(bytes.len() <= HEAD_BYTES_MAX);
        let read: Head = serde_json::from_slice(&bytes).unwrap();
        assert!(read.limits.len() > 100, "{}", read.limits.len());
        assert_eq!(read.limits[0].1, 10_000);
    }

    #[tokio::test]
    async fn sockets_pass_with_what_waits_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        let (listen, admin, sockets) = sockets();
        let giver = Giver::listen(&path, listen, admin, sockets, Box::new(limits)).unwrap();
        let waiting = std::net::TcpStream::connect(admin).unwrap();
        let giving = tokio::spawn(giver.handed_over());
        let taking = tokio::task::spawn_blocking(move || take_over(&path, listen, admin).unwrap().unwrap());
        let inherited = taking.await.unwrap();
        assert_eq!(inherited.listeners.len(), 2);
        assert_eq!(inherited.limits, limits().into_iter().collect(), "and with them what was found out of cells");
        inherited.old.ready().unwrap();
        giving.await.unwrap();
        let (_, peer) = inherited.admin.accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap(), "it connected before the handover");
    }

    #[tokio::test]
    async fn a_process_that_asks_and_dies_leaves_the_old_one_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        let (listen, admin, sockets) = sockets();
        let giving =
            tokio::spawn(Giver::listen(&path, listen, admin, sockets, Box::new(limits)).unwrap().handed_over());
        for ready in [false, true] {
            let path = path.clone();
            let inherited = tokio::task::spawn_blocking(move || take_over(&path, listen, admin).unwrap().unwrap())
                .await
                .unwrap();
            assert!(!giving.is_finished());
            if ready {
                inherited.old.ready().unwrap();
            }
        }
        giving.await.unwrap();
    }

    #[tokio::test]
    async fn other_addresses_are_not_taken_over_and_nobody_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        assert!(take_over(&path, any(), any()).unwrap().is_none(), "no path");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(take_over(&path, any(), any()).unwrap().is_none(), "nobody listens");
        let (listen, admin, sockets) = sockets();
        let giving =
            tokio::spawn(Giver::listen(&path, listen, admin, sockets, Box::new(limits)).unwrap().handed_over());
        let other = SocketAddr::from(([127, 0, 0, 9], listen.port()));
        let taken = tokio::task::spawn_blocking(move || take_over(&path, other, admin).map(|_| ())).await.unwrap();
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        giving.abort();
    }
}
