//! The handle of the store: one node, opened, asked and stopped. Its part about members is in `members`.

mod members;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cell_model::{ClusterId, Envelope, Fleet, Lineage, Reply, Revision};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError as RaftInitializeError, LinearizableReadError, RaftError};
use openraft::{BasicNode, Instant as _, LinearizerOption, ReadPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::consensus::{self, Raft, TypeConfig};
use crate::disk::Disk;
use crate::entropy;
use crate::error::{
    ClaimError, EngineError, InitializeError, OpenError, ReadError, StoreError, SubmitError, TransferError,
};
use crate::fault::Fault;
use crate::hub::{Filter, Hub, SharedFleet, Subscription};
use crate::identity::Identity;
use crate::leadership;
use crate::level::Level;
use crate::log::Log;
use crate::machine::{Machine, MachineShared};
use crate::membership::VOTERS_MAX;
use crate::mirror::Mirror;
use crate::network::{Dialer, MESSAGE_BYTES_MAX, Network, tcp_dialer};
use crate::options::StoreOptions;
use crate::promise::{Promise, Sleep};
use crate::proposer::Proposer;
use crate::quarters::Quarters;
use crate::service::{Node, RaftEndpoint};
use crate::space::Space;
use crate::status::{Leadership, Member, StoreStatus};
use crate::transfer::Arrivals;

/// The gRPC service that peers call.
pub type RaftServer = cell_protos::v1::raft_service_server::RaftServiceServer<RaftEndpoint>;

/// One node of the store. Clones are the same node. Dropping the last one stops it as a crash would.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: StoreOptions,
    pub(crate) node: Arc<Node>,
    proposer: Proposer,
    pub(crate) leadership: watch::Receiver<Leadership>,
    sleep: Sleep,
    fault: Fault,
    stop: CancellationToken,
    /// Keeps the lock of the data directory.
    disk: Disk,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        self.node.machine.hub.close();
        if self.disk.place.is_some() && self.fault.first().is_some() {
            // Its last handle would sync once more, what the kernel may have dropped by now, and panic where that fails.
            std::mem::forget(self.disk.clone());
        }
    }
}

impl Store {
    /// Opens the data directory and starts the node. A node of no cluster yet waits to be claimed and initialized.
    ///
    /// # Errors
    /// [`OpenError`] names what is wrong with the directory or the options.
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let (path, log) = (options.data_dir.clone(), options.log);
        let opened = tokio::task::spawn_blocking(move || Disk::directory(&path, log)).await;
        let disk = opened.map_err(|error| OpenError::Raft { reason: error.to_string() })??;
        Self::open_on(options, disk, tcp_dialer()).await
    }

    /// As [`Store::open`], on a given disk and with a given way to call peers. `data_dir` then only names the node in
    /// errors.
    ///
    /// # Errors
    /// [`OpenError`] names what is wrong with the disk or the options.
    pub async fn open_on(options: StoreOptions, disk: Disk, dialer: Dialer) -> Result<Self, OpenError> {
        let config = consensus::config(&options)?;
        let path = options.data_dir.clone();
        let failed = |source: EngineError| OpenError::Storage { path: path.clone(), source };
        let identity = Arc::new(Identity::open(Arc::clone(&disk.log), &path, options.seed).await?);
        identity.renew().map_err(failed)?;
        let config = consensus::of_node(config, &options, identity.node_id());
        let fault = Fault::new();
        let log = Log::open(Arc::clone(&disk.log), fault.clone()).map_err(failed)?;
        let (machine, noted) = load_machine(&options, &disk, &log, fault.clone()).map_err(failed)?;
        let machine = Arc::new(machine);
        if let Some(cluster) = identity.cluster() {
            machine.begin(cluster);
        }
        check_address(&machine, identity.node_id(), &options)?;
        if log.check_against(machine.last_applied(), noted).map_err(failed)? {
            machine.cover().await.map_err(failed)?;
            tracing::info!("the log ends before what was applied, and counts as purged up to there");
        }
        let network = Network::new(Arc::clone(&identity), dialer, log.written());
        let seed = entropy::seed(options.seed, "choosing a seed").map_err(failed)?;
        let voted = log.voted();
        let quarters = Quarters::new(disk.log.sync_blocks()).map_err(failed)?;
        let started = Raft::new(identity.node_id(), config, network, log, Machine::new(Arc::clone(&machine)));
        let started = quarters.run(entropy::scope(seed, started)).await;
        let raft = started.map_err(|error| match fault.first() {
            Some(first) => failed(first),
            None => OpenError::Raft { reason: error.to_string() },
        })?;
        let stop = CancellationToken::new();
        let promise = Promise::after_start(&raft, voted, options.timers.election_max, stop.clone());
        let directory = disk.place.as_ref().map(|place| place.0.clone());
        let space = Space::watch(directory, options.bounds.disk_reserve_bytes, stop.clone());
        let proposer = quarters.within(|| Proposer::start(raft.clone(), &options, space.clone(), stop.clone()));
        let leadership = leadership::follow(&raft, stop.clone());
        tracing::info!(node_id = identity.node_id(), path = %path.display(), "store opened");
        let arrivals = Arrivals::default();
        let (level, stops) = (Level::default(), stop.clone());
        let node = Node { raft, identity, machine, arrivals, space, promise, level, seed, quarters, stop: stops };
        let (node, sleep) = (Arc::new(node), Sleep::new(!disk.log.sync_blocks()));
        Ok(Self { inner: Arc::new(Inner { options, node, proposer, leadership, sleep, fault, stop, disk }) })
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.node.raft
    }

    pub(crate) fn leader_elsewhere(&self) -> Option<String> {
        let leadership = self.inner.leadership.borrow();
        leadership.leader.clone().filter(|_| !leadership.is_leader)
    }

    /// Runs one command. It answers once a majority has the command on disk and this node has applied it.
    ///
    /// # Errors
    /// [`SubmitError::Unknown`] where the command may or may not have run; with every other error it surely did not.
    pub async fn submit(&self, envelope: Envelope) -> Result<Reply, SubmitError> {
        if self.inner.stop.is_cancelled() {
            return Err(SubmitError::Stopped);
        }
        if !self.inner.leadership.borrow().is_leader {
            return Err(SubmitError::NotLeader { leader: self.leader_elsewhere() });
        }
        self.inner.proposer.submit(envelope).await
    }

    /// After this, [`Store::view`] sees every write that was acknowledged before the call. Only the leader can say so: by
    /// itself while its lease holds, otherwise with a majority, where many readers share one round.
    ///
    /// # Errors
    /// [`ReadError`] where this node does not lead or reaches no majority in time.
    pub async fn read_index(&self) -> Result<Revision, ReadError> {
        if self.inner.stop.is_cancelled() {
            return Err(ReadError::Stopped);
        }
        let deadline = self.inner.options.timers.read;
        match tokio::time::timeout(deadline, self.linearize()).await {
            Ok(Ok(())) => Ok(self.view(|fleet| fleet.head().revision)),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => {
                Err(ReadError::NotLeader { leader: self.leader_elsewhere() })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(missed)))) => {
                let voters = self.members().into_iter().filter(|member| member.voter).count();
                Err(ReadError::Unavailable {
                    reason: format!("{} of {voters} voters have answered", missed.got.len()),
                })
            }
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
            Err(_) => {
                Err(ReadError::Unavailable { reason: format!("no answer within {} ms", deadline.as_millis()) })
            }
        }
    }

    async fn linearize(&self) -> Result<(), RaftError<TypeConfig, LinearizableReadError<TypeConfig>>> {
        let lease = self.inner.options.timers.read_lease;
        self.raft().ensure_linearizable(LinearizerOption::new(Some(lease), true)).await?;
        // Asked last: had the machine slept before the lease was looked at, it shows now.
        if let Some(noticed) = self.inner.sleep.noticed() {
            self.raft().ensure_linearizable(ReadPolicy::ReadIndex).await?;
            self.inner.sleep.confirmed(noticed);
        }
        Ok(())
    }

    /// Looks at this node's state, as far as it has been applied here. Keep it short: applying waits meanwhile.
    pub fn view<R>(&self, look: impl FnOnce(&Fleet) -> R) -> R {
        look(&self.inner.node.machine.fleet.read())
    }

    /// How old [`Store::view`] may be: what was acknowledged longer ago is in it. A leader counts from when a majority has
    /// confirmed it; another node from when it was level with what a leader said was committed, and a leader that was cut off
    /// together with it may not know what others have acknowledged since. None: it was not since it was started.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        if !self.inner.leadership.borrow().is_leader {
            return self.inner.node.level.ago(self.inner.node.machine.pace.applied_index());
        }
        // Where it is alone, it is the majority.
        let alone = metrics.membership_config.voter_ids().eq([self.node_id()]);
        if alone { Some(Duration::ZERO) } else { metrics.last_quorum_acked.map(|acked| acked.elapsed()) }
    }

    /// Watches every change after a revision of a history, or from a snapshot on.
    #[must_use]
    pub fn subscribe(&self, after: Option<(Lineage, Revision)>) -> Subscription {
        self.subscribe_to(Filter::default(), after)
    }

    /// The same for what is wanted of it.
    #[must_use]
    pub fn subscribe_to(&self, filter: Filter, after: Option<(Lineage, Revision)>) -> Subscription {
        let machine = &self.inner.node.machine;
        Subscription::new(Arc::clone(&machine.hub), Arc::clone(&machine.fleet), after, filter)
    }

    /// Who leads, now and whenever it changes.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Random for each data directory, never used again.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.inner.node.identity.node_id()
    }

    /// Where this node says that it is reached.
    #[must_use]
    pub fn advertise(&self) -> &str {
        &self.inner.options.advertise
    }

    /// The cluster that has claimed this node.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.inner.node.identity.cluster()
    }

    /// This node at this moment.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let leadership = self.inner.leadership.borrow().clone();
        let (revision, lineage) = self.view(|fleet| (fleet.head().revision, fleet.head().lineage));
        let members = members_of(&metrics.membership_config);
        let quorum_ack = self.age().filter(|_| leadership.is_leader);
        StoreStatus {
            node_id: self.node_id(),
            advertise: self.inner.options.advertise.clone(),
            cluster: self.cluster(),
            initialized: !members.is_empty(),
            term: leadership.term,
            leader: leadership.leader,
            is_leader: leadership.is_leader,
            revision,
            lineage,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |applied| applied.index),
            snapshot_index: metrics.snapshot.map_or(0, |covered| covered.index),
            purged_index: metrics.purged.map_or(0, |purged| purged.index),
            pace: self.inner.node.machine.pace.seen(),
            quorum_ack,
            members,
            sync_path: self.inner.disk.place.as_ref().map(|place| place.1.clone()),
            disk_available: self.inner.node.space.available(),
            disk_full: self.inner.node.space.check().is_err(),
        }
    }

    /// Durably agrees to belong to a cluster, and to no other. Idempotent. Answers the node id.
    ///
    /// # Errors
    /// [`ClaimError::OtherCluster`] where it belongs to another one.
    pub async fn claim(&self, cluster: ClusterId) -> Result<u64, ClaimError> {
        self.inner.node.identity.claim(cluster).await?;
        self.inner.node.machine.begin(cluster);
        tracing::info!(%cluster, node_id = self.node_id(), "claimed");
        Ok(self.node_id())
    }

    /// Makes the cluster out of claimed nodes; sent to one of them. Idempotent for the same members.
    ///
    /// # Errors
    /// [`InitializeError`] where the members make no cluster, or it exists with other members.
    pub async fn initialize(&self, cluster: ClusterId, members: Vec<Member>) -> Result<(), InitializeError> {
        if self.cluster() != Some(cluster) {
            return Err(InitializeError::NotClaimed { wanted: cluster });
        }
        let nodes = self.check_members(&members)?;
        match self.raft().initialize(nodes.clone()).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(RaftInitializeError::NotAllowed(_))) => {
                let known =
                    self.raft().with_raft_state(|state| members_of(state.membership_state.effective())).await;
                let known = known.map_err(|error| InitializeError::Raft { reason: error.to_string() })?;
                let is_meant =
                    |member: &Member| nodes.get(&member.node_id).is_some_and(|node| node.addr == member.address);
                let same = known.len() == nodes.len() && known.iter().all(is_meant);
                if same { Ok(()) } else { Err(InitializeError::Exists) }
            }
            Err(error) => Err(InitializeError::Raft { reason: error.to_string() }),
        }
    }

    fn check_members(&self, members: &[Member]) -> Result<BTreeMap<u64, BasicNode>, InitializeError> {
        let invalid = |rule: &'static str| Err(InitializeError::InvalidMembers { rule });
        if members.is_empty() || members.len() > VOTERS_MAX {
            return invalid("there must be 1 to 9 of them");
        }
        if members.iter().any(|member| !member.voter) {
            return invalid("the first members all vote");
        }
        let nodes: BTreeMap<u64, BasicNode> =
            members.iter().map(|member| (member.node_id, BasicNode::new(&member.address))).collect();
        let addresses: std::collections::BTreeSet<&str> =
            members.iter().map(|member| member.address.as_str()).collect();
        if nodes.len() != members.len() || addresses.len() != members.len() || addresses.contains("") {
            return invalid("each has a node id and an address of its own");
        }
        if !nodes.contains_key(&self.node_id()) {
            return invalid("the node that is asked must be one of them");
        }
        Ok(nodes)
    }

    /// Hands leadership to the voter that is the furthest along, and waits until another node leads.
    ///
    /// # Errors
    /// [`TransferError`] where there is nothing to hand over, nobody to take it, or nobody did in time.
    pub async fn transfer_leader(&self) -> Result<(), TransferError> {
        if !self.inner.leadership.borrow().is_leader {
            return Err(TransferError::NotLeader);
        }
        let others = self.members().into_iter().filter(|member| member.voter && !member.leader);
        let best = others.max_by_key(|member| member.matched).ok_or(TransferError::NoCandidate)?;
        self.transfer_leader_to(best.node_id).await
    }

    /// The gRPC service for the node's peers; add it to the node's server.
    #[must_use]
    pub fn raft_service(&self) -> RaftServer {
        RaftServer::new(RaftEndpoint::new(Arc::downgrade(&self.inner.node)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Runs until `shutdown`, then hands over leadership and stops.
    ///
    /// # Errors
    /// [`StoreError`] where storage or Raft has failed: the process must end, because what this node holds in memory
    /// may not be on disk.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), StoreError> {
        let failed = tokio::select! {
            () = shutdown.cancelled() => None,
            () = self.inner.stop.cancelled() => None,
            error = self.failed() => Some(error),
        };
        match failed {
            None => {
                self.stop().await;
                Ok(())
            }
            Some(error) => {
                self.inner.stop.cancel();
                self.inner.node.machine.hub.close();
                Err(error)
            }
        }
    }

    /// Waits until storage or Raft fails.
    async fn failed(&self) -> StoreError {
        let mut fault = self.inner.fault.subscribe();
        // Of all that Raft tells of itself, what changes seldom: it is enough to see it end.
        let (metrics, mut seldom) = (self.raft().metrics(), self.raft().server_metrics());
        let mut ended = false;
        loop {
            if let Some(first) = self.inner.fault.first() {
                return StoreError::Storage { reason: first.to_string() };
            }
            if let Err(error) = &metrics.borrow_watched().running_state {
                return StoreError::Raft { reason: error.to_string() };
            }
            if ended {
                return StoreError::Raft { reason: "it ended by itself".into() };
            }
            tokio::select! {
                _ = fault.changed() => {}
                changed = seldom.changed() => ended = changed.is_err(),
            }
        }
    }

    /// Hands over leadership where this node leads, refuses what comes, stops, and makes everything durable.
    pub async fn stop(&self) {
        match self.transfer_leader().await {
            Ok(()) => tracing::info!("leadership handed over"),
            Err(TransferError::NotLeader | TransferError::NoCandidate) => {}
            Err(error) => tracing::warn!(%error, "leadership was not handed over"),
        }
        self.inner.stop.cancel();
        if let Err(error) = self.raft().shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
        self.inner.node.quarters.end().await;
        if let Err(error) = self.inner.node.machine.sync().await {
            tracing::warn!(%error, "the state could not be synced: it is applied again from the log");
        }
        self.inner.node.machine.hub.close();
    }
}

/// A node that the others do not find takes part in nothing. And it may be a copy of one that runs, with the same id: two
/// of them could vote twice. Where it is the only member nobody looks for it.
fn check_address(machine: &MachineShared, node_id: u64, options: &StoreOptions) -> Result<(), OpenError> {
    let (mut members, said) = (machine.addresses(), options.advertise.clone());
    let is_alone = members.len() == 1;
    match members.remove(&node_id).filter(|known| *known != said) {
        None => Ok(()),
        Some(known) if is_alone => {
            let code = "MEMBER_ELSEWHERE";
            tracing::error!(
                code,
                known,
                said,
                "nodes that join will look for this one at another address than it says"
            );
            Ok(())
        }
        Some(known) => Err(OpenError::Elsewhere { path: options.data_dir.clone(), known, said }),
    }
}

fn members_of(membership: &consensus::StoredMembership) -> Vec<Member> {
    let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(id, node): (&u64, &BasicNode)| Member {
        node_id: *id,
        address: node.addr.clone(),
        voter: voters.contains(id),
    };
    membership.nodes().map(member).collect()
}

/// Reads the state and puts hub and machine around it. Answers also what the state notes of the log.
fn load_machine(
    options: &StoreOptions,
    disk: &Disk,
    log: &Log,
    fault: Fault,
) -> Result<(MachineShared, u64), EngineError> {
    let (mirror, loaded) = Mirror::open(Arc::clone(&disk.state), &disk.depot)?;
    let hub = Arc::new(Hub::new(&loaded.fleet, &options.bounds));
    let fleet = Arc::new(SharedFleet::new(loaded.fleet));
    let machine = MachineShared::new(mirror, loaded.head, fleet, hub, disk.depot.clone(), log, fault);
    Ok((machine, loaded.log_synced))
}
