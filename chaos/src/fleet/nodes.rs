//! What a fleet is made of, and how each part tells of itself.

use std::time::Duration;

use cell_client::{cluster, wire};
use cell_model::CellId;

use super::ready::{fetch, sum_of};
use crate::link::Link;

/// A control node.
#[derive(Debug, Clone)]
pub struct ControlNode {
    /// `control-1`.
    pub name: String,
    /// `host:port` at which the others reach it.
    pub address: String,
}

/// A router.
#[derive(Debug)]
pub struct RouterNode {
    /// `router-1`.
    pub name: String,
    /// Where clients connect.
    pub listen: String,
    /// Where it tells of itself.
    pub admin: String,
    /// To each control node, where the fleet is on loopback; else the fleet's wiring is between them.
    pub links: Vec<Link>,
}

impl RouterNode {
    /// Cuts it off from the whole control plane.
    pub fn cut(&self) {
        self.links.iter().for_each(Link::cut);
    }

    /// Ends that.
    pub fn heal(&self) {
        self.links.iter().for_each(Link::heal);
    }

    /// The sum of a counter, or of a gauge of whole numbers, over its labels.
    ///
    /// # Errors
    /// Why its metrics could not be read.
    pub async fn counter(&self, name: &str) -> Result<u64, String> {
        let text = fetch(&self.admin, "/metrics").await?;
        Ok(sum_of(&text, name))
    }
}

/// A cell.
#[derive(Debug, Clone)]
pub struct CellNode {
    /// `cell-1`: the name of the process and of the cell.
    pub id: CellId,
    /// Its agent.
    pub agent: String,
    /// Its gates.
    pub gates: Vec<String>,
}

/// See [`Fleet::observer`].
#[derive(Debug, Clone)]
pub struct Observer {
    /// The control plane.
    pub controls: Vec<ControlNode>,
    /// Where each router tells of itself.
    pub routers: Vec<String>,
    pub(super) link: cell_client::Link,
}

impl Observer {
    /// What a control node says of itself.
    ///
    /// # Errors
    /// Why it says nothing.
    pub async fn status(&self, node: &ControlNode, patience: Duration) -> Result<wire::StatusResponse, String> {
        cluster::status(&node.address, patience, &self.link).await.map_err(|error| error.to_string())
    }

    /// How old a router's table may be.
    ///
    /// # Errors
    /// Why it does not say it.
    pub async fn staleness(&self, admin: &str) -> Result<Duration, String> {
        let text = fetch(admin, "/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix("cell_router_table_staleness_seconds "));
        let seconds: f64 = line.and_then(|value| value.trim().parse().ok()).ok_or("it does not say")?;
        // Infinite until somebody has confirmed the table for the first time.
        Duration::try_from_secs_f64(seconds).map_err(|_| "nobody has confirmed it yet".to_owned())
    }
}
