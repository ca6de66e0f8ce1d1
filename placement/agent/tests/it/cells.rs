//! Cells to move a tenant between, and the steps that a coordinator would send.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cell_agent::engine::Engine;
use cell_agent::{Agent, AgentOptions, RowError, TenantData, Transaction, WriteError};
use cell_client::net::Host;
use cell_client::{AgentPool, StepContext, StepError};
use cell_gate::RequestStamp;
use cell_model::{
    Attempt, CellId, ClusterId, Digest, Epoch, Hold, Leg, Lineage, Mapping, MappingState, MoveId, Rev, Revision,
    Seq, TenantId, Term, Tier, Uid,
};
use cell_trust::{RoutedMapping, SignedMapping, SigningKey};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const HOLD: Duration = Duration::from_millis(1_500);
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The keeper of the directories and of the signing key.
pub(crate) struct Ground {
    directory: tempfile::TempDir,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) pool: AgentPool,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<cell_agent::Planted>,
    pub(crate) hooks: Option<cell_agent::HooksOptions>,
    /// The control plane, for cells that are opened from now on.
    pub(crate) control: Vec<String>,
    /// How long a write in Sync waits for the follower.
    pub(crate) write_confirm_ms: Option<u32>,
    /// The most that such cells capture of a tenant.
    pub(crate) captured_bytes_max: Option<u64>,
}

/// A running cell.
pub(crate) struct Cell {
    pub(crate) id: CellId,
    pub(crate) agent: String,
    pub(crate) data: TenantData,
    stop: CancellationToken,
    service: JoinHandle<Result<(), cell_agent::AgentError>>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            key: Arc::new(SigningKey::generate()),
            pool: AgentPool::new(cell_client::AgentOptions::default()),
            #[cfg(feature = "planted")]
            planted: None,
            hooks: None,
            control: Vec::new(),
            write_confirm_ms: None,
            captured_bytes_max: None,
        }
    }

    /// Opens a cell; `listen` as it was before where it is opened again.
    pub(crate) async fn open_at(&self, name: &str, listen: &str) -> Cell {
        Self::run(Agent::open(self.options(name, listen)).await.unwrap(), name)
    }

    /// Opens a cell on a store that the test can reach into.
    pub(crate) async fn open_on(&self, name: &str, engine: Arc<dyn Engine>) -> Cell {
        let options = self.options(name, "127.0.0.1:0");
        Self::run(Agent::open_within(options, engine, Host::default()).await.unwrap(), name)
    }

    fn options(&self, name: &str, listen: &str) -> AgentOptions {
        let id = CellId::new(name).unwrap();
        let mut options = AgentOptions::new(id, self.directory.path().join(name), listen);
        options.insecure_plaintext = true;
        options.trusted_keys = vec![self.key.public().to_string()];
        options.limits.write_wait_ms = 4_000;
        options.limits.write_confirm_ms = self.write_confirm_ms.unwrap_or(options.limits.write_confirm_ms);
        options.limits.captured_bytes_max = self.captured_bytes_max.unwrap_or(options.limits.captured_bytes_max);
        options.hooks.clone_from(&self.hooks);
        options.control.clone_from(&self.control);
        #[cfg(feature = "planted")]
        {
            options.planted = self.planted;
        }
        options
    }

    fn run(agent: Agent, name: &str) -> Cell {
        let (data, address) = (agent.data(), agent.address().to_string());
        let stop = CancellationToken::new();
        let service = tokio::spawn(agent.run(stop.clone()));
        Cell { id: CellId::new(name).unwrap(), agent: address, data, stop, service }
    }

    pub(crate) async fn open(&self, name: &str) -> Cell {
        self.open_at(name, "127.0.0.1:0").await
    }

    /// The mapping that says: `owner` owns at `epoch`.
    pub(crate) fn mapping(&self, owner: &CellId, epoch: u64) -> SignedMapping {
        let mapping = Mapping {
            lineage: Lineage(1),
            tenant: tenant(),
            uid: Uid(7),
            epoch: Epoch(epoch),
            rev: Rev(1),
            revision: Revision(9),
            state: MappingState::Cutover,
            owner: owner.clone(),
            peer: None,
            hold: Hold::None,
            tier: Tier::Bronze,
        };
        let routed =
            RoutedMapping { cluster: ClusterId(1), mapping, owner_gates: vec![], owner_agent: String::new() };
        SignedMapping::sign(&self.key, &routed)
    }
}

impl Cell {
    pub(crate) async fn close(self) -> String {
        self.stop.cancel();
        self.service.await.unwrap().unwrap();
        // The directory is free when the last handle is gone.
        drop(self.data);
        self.agent
    }

    pub(crate) async fn write<T: Send>(
        &self,
        epoch: u64,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, RowError> + Send,
    ) -> Result<(T, Seq), WriteError<RowError>> {
        self.data.write(&stamp(epoch), work).await
    }

    pub(crate) async fn put(&self, epoch: u64, key: &str, value: &str) -> Result<Seq, WriteError<RowError>> {
        let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        let ((), seq) = self.data.write(&stamp(epoch), |rows| rows.put(&key, value)).await?;
        Ok(seq)
    }

    pub(crate) async fn rows(&self, epoch: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let rows = self.data.read(&stamp(epoch), |rows| rows.scan(b"", None, usize::MAX)).await.unwrap();
        rows.into_iter().collect()
    }
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("t-1").unwrap()
}

pub(crate) fn stamp(epoch: u64) -> RequestStamp {
    RequestStamp { tenant: tenant(), uid: Uid(7), epoch: Epoch(epoch) }
}

/// A step of move 20.
pub(crate) fn context(epoch: u64, attempt: u32) -> StepContext {
    StepContext {
        lineage: Lineage(1),
        term: Term(1),
        tenant: tenant(),
        uid: Uid(7),
        move_id: Some(MoveId(20)),
        attempt: Attempt(attempt),
        epoch: Epoch(epoch),
        leg: Some(Leg::Forward),
    }
}

/// A step outside of any move.
pub(crate) fn outside(epoch: u64) -> StepContext {
    StepContext { move_id: None, attempt: Attempt(0), leg: None, ..context(epoch, 0) }
}

pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, StepError>) -> String {
    match result {
        Err(StepError::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn refused_write<T: std::fmt::Debug, E: std::fmt::Debug>(
    result: Result<T, WriteError<E>>,
) -> &'static str {
    match result {
        Err(WriteError::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    }
}

/// Prepares the copy from `from` to `to` and waits until it is complete and close behind.
pub(crate) async fn copy(ground: &Ground, from: &Cell, to: &Cell, step: &StepContext) {
    ground.pool.start_capture(&from.agent, step).await.unwrap();
    ground.pool.prepare_import(&to.agent, step, &from.id, &from.agent).await.unwrap();
    await_backfill(ground, to, step).await;
}

pub(crate) async fn await_backfill(ground: &Ground, to: &Cell, step: &StepContext) {
    let copied = async {
        loop {
            let progress = ground.pool.import_status(&to.agent, step).await.unwrap();
            assert!(progress.failure_code.is_empty(), "{progress:?}");
            if progress.backfilled {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, copied).await.expect("the copy is complete in time");
}

/// Holds, seals, waits for the other cell and compares: what COMMIT asks for.
pub(crate) async fn seal(ground: &Ground, from: &Cell, to: &Cell, step: &StepContext) -> (Seq, Digest) {
    let sealed = ground.pool.hold_writes(&from.agent, step, HOLD).await.unwrap();
    let (applied, _) = ground.pool.await_applied(&to.agent, step, sealed, HOLD).await.unwrap();
    assert_eq!(applied, sealed);
    let source = ground.pool.digest_at(&from.agent, step, sealed, PATIENCE).await.unwrap();
    assert_eq!(ground.pool.digest_at(&to.agent, step, sealed, PATIENCE).await.unwrap(), source);
    (sealed, source)
}

/// The cutover from `from` at `epoch` to `to` at the next one; `to` captures for `from`, which follows.
pub(crate) async fn cut_over(ground: &Ground, from: &Cell, to: &Cell, epoch: u64, attempt: u32) -> Seq {
    let (before, after) = (context(epoch, attempt), context(epoch + 1, attempt));
    let (sealed, _) = seal(ground, from, to, &before).await;
    assert_eq!(ground.pool.fence(&from.agent, &before, sealed).await.unwrap(), sealed);
    ground.pool.activate(&to.agent, &after, Some((&from.id, &from.agent))).await.unwrap();
    let mapping = ground.mapping(&to.id, epoch + 1);
    ground.pool.deliver_mapping(&from.agent, &after, &mapping, Some((&to.id, &to.agent))).await.unwrap();
    sealed
}
