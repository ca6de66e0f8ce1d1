//! Sockets: one listener for each thread at the same address, among which the kernel deals out connections.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;

const BACKLOG: i32 = 1_024;

/// As many listeners at one address as there are threads. Port 0 becomes a free one, the same for all.
pub(crate) fn listen_shared(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, Error> {
    let refused = |source| Error::Listen { address, source };
    if address.port() != 0 {
        // Sockets that share a port would also share it with another process: see whether it is free.
        drop(open(address, false).map_err(refused)?);
    }
    let first = open(address, true).map_err(refused)?;
    let address = first.local_addr().map_err(refused)?;
    let others = (1..count).map(|_| open(address, true).map_err(refused));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// One listener.
pub(crate) fn listen_alone(address: SocketAddr) -> Result<TcpListener, Error> {
    open(address, false).map_err(|source| Error::Listen { address, source })
}

/// From now on nobody can begin to connect to this socket: the kernel lets the first packet of a connection fall, and whoever
/// sends it tries again until the socket is closed, and is refused then. Who is connected, or about to be, can be accepted. A
/// socket that is just closed resets them.
#[cfg(target_os = "linux")]
pub(crate) fn keep_newcomers_out(listener: impl std::os::fd::AsFd) -> io::Result<()> {
    use socket2::SockFilter;
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let (load_byte, and, jump_if_equal, answer) = (0x30, 0x54, 0x15, 0x06);
    // What the filter sees of a packet begins with its TCP header.
    let filter = [
        SockFilter::new(load_byte, 0, 0, FLAGS_AT),
        SockFilter::new(and, 0, 0, SYN | ACK),
        SockFilter::new(jump_if_equal, 0, 1, SYN),
        SockFilter::new(answer, 0, 0, 0),
        SockFilter::new(answer, 0, 0, u32::MAX),
    ];
    socket2::SockRef::from(&listener).attach_filter(&filter)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_newcomers_out(_listener: impl std::os::fd::AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether an address is to be had.
pub(crate) fn is_free(address: SocketAddr) -> io::Result<()> {
    bound(address, false).map(drop)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = bound(address, shared)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn all_threads_listen_at_one_port() {
        let listeners = listen_shared(SocketAddr::from(([127, 0, 0, 1], 0)), 3).unwrap();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|address| *address == addresses[0] && address.port() != 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_that_keeps_newcomers_out_gives_who_is_connected_already() {
        let listener = listen_alone(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let mut first = std::net::TcpStream::connect(address).unwrap();
        keep_newcomers_out(&listener).unwrap();
        let newcomer = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(100));
        assert_eq!(newcomer.unwrap_err().kind(), io::ErrorKind::TimedOut, "not refused yet, and not taken");
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"x").unwrap();
        first.read_exact(&mut [0]).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        let late = std::net::TcpStream::connect(address);
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_port_in_use_is_an_error_though_sockets_could_share_it() {
        let held = listen_shared(SocketAddr::from(([127, 0, 0, 1], 0)), 2).unwrap();
        let error = listen_shared(held[0].local_addr().unwrap(), 2).unwrap_err();
        assert_eq!(error.code(), "PORT_IN_USE");
        assert_eq!(listen_alone(held[0].local_addr().unwrap()).unwrap_err().code(), "PORT_IN_USE");
        assert!(is_free(held[0].local_addr().unwrap()).is_err());
    }
}
