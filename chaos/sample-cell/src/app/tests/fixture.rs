//! One cell that owns one tenant.

use cell_agent::{Agent, AgentOptions};
use cell_client::{AgentPool, StepContext};
use cell_gate::RequestStamp;
use cell_model::{Attempt, CellId, Epoch, Lineage, TenantId, Term, Uid};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::app::Documents;

pub(super) struct Fixture {
    pub(super) app: Documents,
    pub(super) stamp: RequestStamp,
    /// To be kept: the cell stops with it.
    pub(super) running: (DropGuard, tempfile::TempDir),
}

pub(super) async fn cell() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let mut options = AgentOptions::new(CellId::new("c1").unwrap(), directory.path().into(), "127.0.0.1:0");
    options.insecure_plaintext = true;
    let agent = Agent::open(options).await.unwrap();
    let (address, data) = (agent.address(), agent.data());
    let stop = CancellationToken::new();
    tokio::spawn(agent.run(stop.clone()));
    let stamp = RequestStamp { tenant: TenantId::new("t").unwrap(), uid: Uid(1), epoch: Epoch(1) };
    let context = StepContext {
        lineage: Lineage(1),
        term: Term(1),
        tenant: stamp.tenant.clone(),
        uid: stamp.uid,
        move_id: None,
        attempt: Attempt(0),
        epoch: stamp.epoch,
        leg: None,
    };
    let pool = AgentPool::new(cell_client::AgentOptions::default());
    pool.grant(&address.to_string(), &context).await.unwrap();
    Fixture { app: Documents::new(data), stamp, running: (stop.drop_guard(), directory) }
}
