//! The state machine: `Fleet::apply` for each command of a committed entry, and nothing else.
//!
//! ```text
//! entry ──► lock ─► Fleet::apply × n ─► hub ─► unlock ──► replies ──► mirror (one batch)
//! ```
//!
//! The fleet in memory is what is read and served; the last snapshot and [`Mirror`] are what a restart reads.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cell_model::{ClusterId, Fleet, FleetImage, Lineage};
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use crate::consensus::{Batch, LogId, Replies, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::error::EngineError;
use crate::fault::Fault;
use crate::hub::{Committed, Hub, SharedFleet, departures};
use crate::log::{Log, Synced};
use crate::mirror::{Mirror, head_of};
use crate::offload::{offload, sync_state};
use crate::pace::{Pace, Taking};
use crate::snapshot::{self, Depot, SnapshotData};
use crate::wire::{WireHead, WireLogId, WireSnapshotMeta};

/// The lineage of a cluster that was never restored.
const FIRST_LINEAGE: Lineage = Lineage(1);

/// What openraft drives. The parts that others read are shared.
#[derive(Debug)]
pub(crate) struct Machine {
    shared: Arc<MachineShared>,
}

/// What the state machine shares with the rest of the store.
#[derive(Debug)]
pub(crate) struct MachineShared {
    pub fleet: Arc<SharedFleet>,
    pub hub: Arc<Hub>,
    pub pace: Pace,
    applied: Mutex<Applied>,
    depot: Depot,
    /// Held while a snapshot is put in place.
    placing: Mutex<()>,
    log_synced: Synced,
    fault: Fault,
}

#[derive(Debug)]
struct Applied {
    head: WireHead,
    mirror: Mirror,
}

impl MachineShared {
    pub(crate) fn new(
        mirror: Mirror,
        head: WireHead,
        fleet: Arc<SharedFleet>,
        hub: Arc<Hub>,
        depot: Depot,
        log: &Log,
        fault: Fault,
    ) -> Self {
        let (pace, log_synced) = (log.pace(), log.synced());
        pace.applied(applied_index(&head));
        let applied = Mutex::new(Applied { head, mirror });
        Self { fleet, hub, pace, applied, depot, placing: Mutex::default(), log_synced, fault }
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was applied last.
    pub(crate) fn last_applied(&self) -> Option<WireLogId> {
        self.applied().head.applied
    }

    /// Where the members look for each other.
    pub(crate) fn addresses(&self) -> BTreeMap<u64, String> {
        self.applied().head.membership.membership.nodes.clone()
    }

    /// Nodes that have left.
    pub(crate) fn removed(&self) -> Vec<u64> {
        self.applied().head.removed.clone()
    }

    /// The whole state at one moment.
    pub(crate) fn image(&self) -> (WireHead, FleetImage) {
        let applied = self.applied();
        let fleet = self.fleet.read();
        (head_of(&fleet, &applied.head), fleet.image())
    }

    /// Makes a snapshot of what is applied the current one, unless that covers more already.
    pub(crate) async fn cover(self: &Arc<Self>) -> Result<(), EngineError> {
        let _taking = self.pace.taking();
        let (shared, (head, fleet)) = (Arc::clone(self), self.image());
        let covering = move || {
            if shared.covered()? >= head.applied { Ok(()) } else { shared.write_snapshot(&head, &fleet) }
        };
        offload(self.depot.blocks(), "writing a snapshot", covering).await
    }

    fn write_snapshot(&self, head: &WireHead, fleet: &FleetImage) -> Result<(), EngineError> {
        self.put_in_place(&self.depot.write(head, fleet)?, head.applied)?;
        self.applied().mirror.stands_on(head.revision);
        Ok(())
    }

    /// How far the current snapshot reaches.
    fn covered(&self) -> Result<Option<WireLogId>, EngineError> {
        let Some(data) = self.depot.current()? else { return Ok(None) };
        Ok(snapshot::read_meta(&mut data.reader())?.last)
    }

    /// Makes a snapshot the current one, unless that reaches further: one of the leader's may have come while this one was
    /// written, and what the mirror holds stands on that one.
    fn put_in_place(&self, data: &SnapshotData, last: Option<WireLogId>) -> Result<(), EngineError> {
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.covered()? > last { Ok(()) } else { self.depot.adopt(data) }
    }

    pub(crate) fn depot(&self) -> &Depot {
        &self.depot
    }

    /// Gives the fleet of a node without history its cluster. Every node begins with the same state.
    pub(crate) fn begin(&self, cluster: ClusterId) {
        let mut applied = self.applied();
        let mut fleet = self.fleet.write();
        if fleet.head().lineage == Lineage::default() {
            *fleet = Fleet::new(cluster, FIRST_LINEAGE);
            applied.head = head_of(&fleet, &applied.head);
            self.hub.restart(&fleet);
        }
    }

    /// Runs the commands of one entry.
    fn run(&self, applied: &mut Applied, batch: &Batch) -> Replies {
        let mut committed = Vec::new();
        let mut replies = Vec::with_capacity(batch.0.len());
        let mut fleet = self.fleet.write();
        for envelope in batch.0.iter() {
            let mut gone = Vec::new();
            let (reply, changes) = fleet.apply_seen(envelope, |before, changes| gone = departures(before, changes));
            let bytes = applied.mirror.note(&fleet, envelope, &changes);
            if !changes.is_empty() {
                committed.push((Committed { revision: reply.revision, changes, departures: gone }, bytes));
            }
            replies.push(reply);
        }
        applied.head = head_of(&fleet, &applied.head);
        self.hub.publish(committed);
        Replies(replies)
    }

    /// Writes the mirror to disk for good.
    pub(crate) async fn sync(&self) -> Result<(), EngineError> {
        let engine = Arc::clone(self.applied().mirror.engine());
        self.fault.note(sync_state(&engine).await)
    }

    fn install(&self, data: &SnapshotData) -> Result<WireHead, EngineError> {
        let contents = snapshot::read(&mut data.reader())?;
        self.put_in_place(data, contents.head.applied)?;
        let mut applied = self.applied();
        applied.mirror.replace(&contents.head, &contents.fleet, self.log_synced.get())?;
        applied.head = contents.head.clone();
        let mut fleet = self.fleet.write();
        *fleet = contents.fleet;
        self.hub.restart(&fleet);
        self.pace.applied(applied_index(&contents.head));
        Ok(contents.head)
    }
}

fn applied_index(head: &WireHead) -> u64 {
    head.applied.map_or(0, |applied| applied.index)
}

impl Machine {
    pub(crate) const fn new(shared: Arc<MachineShared>) -> Self {
        Self { shared }
    }
}

fn impossible(detail: String) -> io::Error {
    EngineError::Corrupt { what: "the state's head".into(), detail }.into()
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let head = self.shared.applied().head.clone();
        let membership = StoredMembership::try_from(head.membership).map_err(impossible)?;
        Ok((head.applied.map(LogId::from), membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let engine = Arc::clone(self.shared.applied().mirror.engine());
        while let Some(entry) = entries.next().await {
            // Raft's thread has heartbeats to answer, however slow the disk of the state is.
            if let Some(room) = engine.room() {
                room.await;
            }
            let (entry, responder) = entry?;
            let mut applied = self.shared.applied();
            let replies = match &entry.payload {
                EntryPayload::Blank => Replies::default(),
                EntryPayload::Normal(batch) => self.shared.run(&mut applied, batch),
                EntryPayload::Membership(membership) => {
                    let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                    applied.head.change_members((&stored).into());
                    Replies::default()
                }
            };
            applied.head.applied = Some((&entry.log_id).into());
            if let Some(responder) = responder {
                responder.send(replies);
            }
            let Applied { head, mirror } = &mut *applied;
            self.shared.fault.note(mirror.commit(head, self.shared.log_synced.get()))?;
            self.shared.pace.applied(entry.log_id.index);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let taking = self.shared.pace.taking();
        let (head, fleet) = self.shared.image();
        Builder { shared: Arc::clone(&self.shared), head, fleet: Some(fleet), taking: Some(taking) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let shared = Arc::clone(&self.shared);
        let installed =
            offload(shared.depot.blocks(), "installing a snapshot", move || shared.install(&data)).await;
        let head = self.shared.fault.note(installed)?;
        let (wanted, found) =
            (WireSnapshotMeta::from(meta), WireSnapshotMeta { last: head.applied, membership: head.membership });
        if wanted != found {
            return Err(impossible(format!("the snapshot covers {:?}, not {:?}", found.last, wanted.last)));
        }
        tracing::info!(revision = head.revision.get(), "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.shared.fault.note(current(&self.shared.depot))?)
    }
}

fn current(depot: &Depot) -> Result<Option<Snapshot>, EngineError> {
    let Some(data) = depot.current()? else { return Ok(None) };
    let meta = SnapshotMeta::try_from(snapshot::read_meta(&mut data.reader())?);
    let meta = meta.map_err(|detail| EngineError::Corrupt { what: "snapshot".into(), detail })?;
    Ok(Some(Snapshot { meta, snapshot: data }))
}

/// A copy of the state at one moment, to be written while `apply` goes on.
#[derive(Debug)]
pub(crate) struct Builder {
    shared: Arc<MachineShared>,
    head: WireHead,
    fleet: Option<FleetImage>,
    /// Until the snapshot is there, or given up.
    taking: Option<Taking>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let fleet = self.fleet.take().ok_or_else(|| io::Error::other("a builder builds once"))?;
        let _taking = self.taking.take();
        let (head, shared) = (self.head.clone(), Arc::clone(&self.shared));
        let built = offload(shared.depot.blocks(), "writing a snapshot", move || {
            shared.write_snapshot(&head, &fleet)?;
            current(&shared.depot)
        });
        let built = self.shared.fault.note(built.await)?;
        self.shared.sync().await?;
        let built = built.ok_or_else(|| io::Error::other("the snapshot is gone"))?;
        tracing::debug!(revision = self.head.revision.get(), "snapshot made");
        Ok(built)
    }
}
