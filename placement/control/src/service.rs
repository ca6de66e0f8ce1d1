//! The gRPC services in front of the store.
//!
//! * `control`: the public API, one method each, and what they share: running a command, reading linearizably;
//! * `as_of`: how old an answer may be;
//! * `page`: lists, page by page; `placing`: a cell for a tenant that names none; `preview`: what a move would meet;
//! * `takeover`: a tenant whose owner is out of reach;
//! * `refusing`: codes for what the gRPC library refuses;
//! * `watch`: a snapshot, then changes; `encoded`: sent as the bytes that were made for everybody;
//! * `routers`: who lags, and whether all have seen a revision;
//! * `audit`: who asked for what;
//! * `cluster`: making and looking after the cluster itself;
//! * `deeds`: what people do to the store itself, for the audit trail;
//! * `store`: members, disk, snapshots, backups; `reconcile`: what cells hold, after a restore.

use std::time::{Duration, UNIX_EPOCH};

use cell_client::Link;
use cell_migration::Setbacks;
use cell_model::{Command, Envelope, Fleet, Outcome, Revision, UnixMillis};
use cell_protos::v1;
use cell_store::Store;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::press::Press;
use crate::{Liveness, Routers, Signer, refusal};

mod as_of;
mod audit;
mod cluster;
mod control;
mod deeds;
mod encoded;
mod page;
mod placing;
mod preview;
mod reconcile;
mod refusing;
mod routers;
mod store;
mod takeover;
mod watch;

use as_of::AsOf;
pub(crate) use cluster::ClusterEndpoint;
pub(crate) use control::ControlEndpoint;
pub(crate) use encoded::ControlServer;
pub(crate) use placing::Homes;
pub(crate) use refusing::Refusing;
pub(crate) use store::StoreEndpoint;
pub(crate) use watch::{Watchers, signed};

/// What every service and the coordinator stand on.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    /// The replicated records.
    pub(crate) store: Store,
    /// Signs mappings, and frames of the watch.
    pub(crate) signer: Signer,
    /// When each cell was last heard of.
    pub(crate) liveness: Liveness,
    /// How others are called, and call.
    pub(crate) link: Link,
    /// Frames of the watch.
    pub(crate) press: Press,
    /// Who watches.
    pub(crate) watchers: Watchers,
    /// What each router holds.
    pub(crate) routers: Routers,
    /// Default homes of tenants.
    pub(crate) homes: Homes,
    /// What moves have met in their way.
    pub(crate) setbacks: Setbacks,
    /// Streams end when it is cancelled.
    pub(crate) closing: CancellationToken,
}

/// Longer than a request may be on its way: so much earlier than it seems it may have been tried first.
const ON_ITS_WAY_MAX: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Debug, Clone)]
struct Caller {
    /// As the audit trail writes it.
    actor: String,
    /// How long ago he has tried the same first; none where this is the first time.
    tried_ago: Option<Duration>,
}

impl Caller {
    fn of<T>(request: &tonic::Request<T>) -> Self {
        Self { actor: cell_client::actor(request), tried_ago: cell_client::tried_ago(request) }
    }
}

/// The wall clock of a node's machine, for stamps and pauses.
pub(crate) fn now(link: &Link) -> UnixMillis {
    let since = link.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Ground {
    /// The wall clock.
    pub(crate) fn now(&self) -> UnixMillis {
        now(&self.link)
    }

    /// A command with what the client said besides, and the time.
    fn envelope(
        &self,
        command: Command,
        options: Option<v1::WriteOptions>,
        by: Caller,
    ) -> Result<Envelope, Status> {
        let (request_id, expected_revision) =
            options.unwrap_or_default().read().map_err(|error| refusal::malformed(&error))?;
        let (at, Caller { actor, tried_ago }) = (self.now(), by);
        let first_tried = tried_ago.map(|ago| {
            let ago = ago.saturating_add(ON_ITS_WAY_MAX).as_millis();
            UnixMillis(at.get().saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX)))
        });
        let asked = request_id.map(|_| cell_store::asked(&actor, &command, expected_revision));
        Ok(Envelope { request_id, asked, first_tried, expected_revision, actor, ..Envelope::new(at, command) })
    }

    fn belongs(&self) -> bool {
        self.store.cluster().is_some()
    }

    /// Runs a command on this node, which must lead.
    async fn submit(&self, envelope: Envelope) -> Result<(Revision, Outcome), Status> {
        let reply = self.store.submit(envelope).await;
        let reply = reply.map_err(|error| refusal::submit(&error, self.belongs()))?;
        let outcome = reply.result.map_err(|rejected| refusal::rejected(&rejected))?;
        Ok((reply.revision, outcome))
    }

    /// Waits until this node may answer a read: at once where a stale answer is good enough, and that one says so.
    async fn readable(&self, allow_stale: bool) -> Result<AsOf, Status> {
        if allow_stale {
            return Ok(AsOf::of(&self.store));
        }
        let read = self.store.read_index().await;
        read.map(|_| AsOf::NOW).map_err(|error| refusal::read(&error, self.belongs()))
    }

    /// Refuses unless this node leads; how long it has done so.
    fn leading(&self) -> Result<Duration, Status> {
        let leadership = self.store.leadership();
        let leadership = leadership.borrow();
        if leadership.is_leader {
            return Ok(leadership.since.elapsed());
        }
        Err(refusal::not_leader(leadership.leader.as_deref(), self.belongs()))
    }

    pub(crate) fn view<R>(&self, look: impl FnOnce(&Fleet) -> R) -> R {
        self.store.view(look)
    }
}
