//! What a router listens at: sockets of its own, those of the process that runs, or ports of a network that is passed in.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use cell_client::net::{Fabric, Listener};
use cell_model::CellId;

use crate::handover::{self, Inherited, Old};
use crate::options::Options;
use crate::router::Addresses;
use crate::{Error, listen};

/// Bound, and not yet of any runtime.
pub(crate) struct Sockets {
    listeners: Vec<Socket>,
    admin: Socket,
    /// The process that they come from, and that still serves.
    old: Option<Old>,
    /// How many requests each cell may have at once, as that process has found out.
    pub(crate) limits: BTreeMap<CellId, u32>,
}

/// A listener that belongs to no runtime yet.
pub(crate) enum Socket {
    Kernel(TcpListener),
    /// Of a network that was passed in: it stays with the runtime that it comes from.
    Given(Listener),
}

impl Socket {
    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        match self {
            Self::Kernel(listener) => listener.local_addr(),
            Self::Given(listener) => listener.local_addr(),
        }
    }

    /// For the runtime that this is called on.
    pub(crate) fn bound(self) -> std::io::Result<Listener> {
        match self {
            Self::Kernel(listener) => tokio::net::TcpListener::from_std(listener).map(Listener::Kernel),
            Self::Given(listener) => Ok(listener),
        }
    }
}

impl Sockets {
    /// Those of the process that runs, or new ones.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        if let Some(path) = &options.handover_socket {
            let taken = handover::take_over(path, options.listen, options.admin_listen);
            let taken = taken.map_err(|source| Error::HandOver { path: path.clone(), source })?;
            if let Some(Inherited { mut listeners, admin, limits, old }) = taken {
                tracing::info!(path = %path.display(), sockets = listeners.len(), "taking over from the process that runs");
                // Every socket that is shared gets its part of the connections, so that none may be left without a thread.
                for index in listeners.len()..options.worker_count() {
                    let again = listeners[index % listeners.len()].try_clone();
                    listeners.push(again.map_err(|source| Error::HandOver { path: path.clone(), source })?);
                }
                return Ok(Self { limits, ..Self::kernel(listeners, admin, Some(old)) });
            }
        }
        let listeners = listen::listen_shared(options.listen, options.worker_count())?;
        Ok(Self::kernel(listeners, listen::listen_alone(options.admin_listen)?, None))
    }

    fn kernel(listeners: Vec<TcpListener>, admin: TcpListener, old: Option<Old>) -> Self {
        let listeners = listeners.into_iter().map(Socket::Kernel).collect();
        Self { listeners, admin: Socket::Kernel(admin), old, limits: BTreeMap::new() }
    }

    /// Ports of another network: one thread serves them.
    pub(crate) fn within(fabric: &dyn Fabric, options: &Options) -> Result<Self, Error> {
        let listen = |address| {
            let port = fabric.listen(address).map_err(|source| Error::Listen { address, source })?;
            Ok::<_, Error>(Socket::Given(Listener::Given(port)))
        };
        let (listeners, admin) = (vec![listen(options.listen)?], listen(options.admin_listen)?);
        Ok(Self { listeners, admin, old: None, limits: BTreeMap::new() })
    }

    pub(crate) fn addresses(&self, options: &Options) -> Result<Addresses, Error> {
        let of = |socket: &Socket, address| socket.local_addr().map_err(|source| Error::Listen { address, source });
        Ok(Addresses {
            listen: of(&self.listeners[0], options.listen)?,
            admin: of(&self.admin, options.admin_listen)?,
        })
    }

    /// All of them that another process can take.
    pub(crate) fn for_the_next(&self) -> std::io::Result<Vec<TcpListener>> {
        let kernels = self.listeners.iter().chain([&self.admin]).filter_map(|socket| match socket {
            Socket::Kernel(listener) => Some(listener.try_clone()),
            Socket::Given(_) => None,
        });
        kernels.collect()
    }

    /// One for each thread, and that for operators.
    pub(crate) fn into_parts(self) -> (Vec<Socket>, Socket, Option<Old>) {
        (self.listeners, self.admin, self.old)
    }
}
