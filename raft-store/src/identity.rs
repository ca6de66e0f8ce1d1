//! Which node this is, and which cluster it belongs to: two durable values that are written once.
//!
//! The node id is random for each data directory and never used again: a directory that was lost must not come back
//! under the same id, because its votes are lost as well.

use std::sync::{Arc, PoisonError, RwLock};

use cell_model::ClusterId;
use cell_model::layout::LAYOUT;

use crate::codec::{self, layout_of};
use crate::engine::LogEngine;
use crate::entropy;
use crate::error::{ClaimError, EngineError, OpenError};
use crate::offload::sync_log;
use crate::wire::WireIdentity;

pub(crate) const META_IDENTITY: &str = "identity";
pub(crate) const META_CLUSTER: &str = "cluster";
/// Layout of the data directory.
const FORMAT: u32 = 1;

/// A node's durable names.
#[derive(Debug)]
pub(crate) struct Identity {
    engine: Arc<dyn LogEngine>,
    node_id: u64,
    cluster: RwLock<Option<ClusterId>>,
    /// One claim at a time.
    claiming: tokio::sync::Mutex<()>,
}

impl Identity {
    /// Reads the names, or gives a new directory its node id.
    pub(crate) async fn open(
        engine: Arc<dyn LogEngine>,
        path: &std::path::Path,
        seed: Option<u64>,
    ) -> Result<Self, OpenError> {
        let failed = |source: EngineError| OpenError::Storage { path: path.to_owned(), source };
        let identity = match engine.get_meta(META_IDENTITY).map_err(failed)? {
            Some(bytes) => {
                codec::open_first::<WireIdentity>(&bytes, || "the node's identity".into()).map_err(failed)?
            }
            None => new_identity(&engine, seed).await.map_err(failed)?,
        };
        if identity.format != FORMAT {
            return Err(OpenError::Format { path: path.to_owned(), found: identity.format, expected: FORMAT });
        }
        let cluster = match engine.get_meta(META_CLUSTER).map_err(failed)? {
            Some(bytes) => Some(codec::open(&bytes, || "the claim of the cluster".into()).map_err(failed)?),
            None => None,
        };
        Ok(Self {
            engine,
            node_id: identity.node_id,
            cluster: RwLock::new(cluster),
            claiming: tokio::sync::Mutex::new(()),
        })
    }

    /// Writes the names in today's layout where they have an earlier one: from now on the version that wrote them must not
    /// take the directory for its own.
    pub(crate) fn renew(&self) -> Result<(), EngineError> {
        match self.engine.get_meta(META_IDENTITY)? {
            Some(bytes) if layout_of(&bytes) != LAYOUT => {
                let identity = WireIdentity { format: FORMAT, node_id: self.node_id };
                self.engine.put_meta(META_IDENTITY, &codec::seal_first(&identity))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) const fn node_id(&self) -> u64 {
        self.node_id
    }

    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Belongs to `cluster` from now on, durably.
    pub(crate) async fn claim(&self, cluster: ClusterId) -> Result<(), ClaimError> {
        let _one_at_a_time = self.claiming.lock().await;
        if cluster == ClusterId::default() {
            return Err(ClaimError::Zero);
        }
        match self.cluster() {
            Some(actual) if actual == cluster => return Ok(()),
            Some(actual) => return Err(ClaimError::OtherCluster { wanted: cluster, actual }),
            None => {}
        }
        self.engine.put_meta(META_CLUSTER, &codec::seal(&cluster)).map_err(ClaimError::Storage)?;
        sync_log(&self.engine).await.map_err(ClaimError::Storage)?;
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
        Ok(())
    }
}

async fn new_identity(engine: &Arc<dyn LogEngine>, seed: Option<u64>) -> Result<WireIdentity, EngineError> {
    if engine.last()?.is_some() {
        return Err(EngineError::Corrupt {
            what: "the node's identity".into(),
            detail: "it is missing, and there is a log".into(),
        });
    }
    let random = entropy::seed(seed, "choosing a node id")?;
    let identity = WireIdentity { format: FORMAT, node_id: random.max(1) };
    engine.put_meta(META_IDENTITY, &codec::seal_first(&identity))?;
    sync_log(engine).await?;
    Ok(identity)
}
