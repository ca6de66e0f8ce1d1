//! A look at a router from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cell_model::{Mapping, Revision, TenantId};
use tokio::time::Instant;

use crate::Error;
use crate::directory::Directory;
use crate::options::Options;
use crate::reload::{Difference, Reload};

/// Where a router listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub listen: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
}

/// A look at a router from outside. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) addresses: Addresses,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) directory: Arc<Directory>,
    pub(super) reload: Arc<Reload>,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The revision up to which its table is complete.
    #[must_use]
    pub fn table_revision(&self) -> Revision {
        self.directory.applied()
    }

    /// How old its table may be. None: no control node has ever confirmed it.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.directory.freshness.staleness(Instant::now())
    }

    /// What it believes of a tenant.
    #[must_use]
    pub fn mapping(&self, tenant: &TenantId) -> Option<Mapping> {
        self.directory.find(tenant).map(|entry| entry.mapping.clone())
    }

    /// Takes other options, or leaves everything as it is. Answers what differs, and what of that waits for a restart.
    ///
    /// # Errors
    /// The error that is given, or the first rule that the options break.
    pub fn reload(&self, options: Result<Options, Error>) -> Result<Vec<Difference>, Error> {
        self.reload.take(options)
    }

    /// How many connections of clients are open.
    #[must_use]
    pub fn client_connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many WebSockets are open.
    #[must_use]
    pub fn open_tunnels(&self) -> usize {
        self.directory.tunnels.total()
    }

    /// How many requests wait for a move.
    #[must_use]
    pub fn held_requests(&self) -> usize {
        self.directory.waiters.total()
    }
}
