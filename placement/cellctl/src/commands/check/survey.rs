//! What is asked of a fleet before it is judged. Nothing here is an error: what could not be asked is a finding.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_client::{AgentOptions, AgentPool, ClientError, cluster, wire};
use cell_model::CellRecord;

use crate::audit_chain::Trail;
use crate::commands::{Control, audit};
use crate::pages::all;

/// A control node's answer, or why there is none.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub endpoint: String,
    pub status: Result<wire::StatusResponse, String>,
    /// Its clock minus ours, in milliseconds, give or take half of the way.
    pub clock_ms: Option<(i64, u64)>,
    pub disk: Result<wire::DiskStatusResponse, String>,
    pub trail: Result<Trail, String>,
}

/// A cell, and what its agent says.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub record: CellRecord,
    pub agent: Result<wire::DescribeResponse, String>,
}

/// Everything that was heard.
#[derive(Debug)]
pub(super) struct Survey {
    pub now_ms: u64,
    pub nodes: Vec<Node>,
    pub cells: Result<Vec<Cell>, String>,
    pub tenants: Result<Vec<wire::Tenant>, String>,
    pub moves: Result<Vec<wire::Move>, String>,
    pub routers: Result<wire::ListRoutersResponse, String>,
    /// When our own certificate runs out, in seconds from now; none in plaintext.
    pub own_certificate_s: Option<i64>,
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) async fn survey(control: &Control) -> Survey {
    let patience = control.global.timeout.min(Duration::from_secs(3));
    let nodes = nodes(control, patience);
    let told = |error: ClientError| error.to_string();
    let client = &control.client;
    let cells = async {
        let records = all(|options| client.list_cells(options)).await.map_err(told)?;
        let options = AgentOptions { step: patience, link: control.target.link.clone(), ..AgentOptions::default() };
        let agents = AgentPool::new(options);
        let ask = records.into_iter().map(|record| {
            let agents = agents.clone();
            async move {
                let agent = agents.describe_uncounted(&record.agent, None).await.map_err(|error| error.to_string());
                Cell { record, agent }
            }
        });
        Ok(futures::future::join_all(ask).await)
    };
    let tenants = async { all(|options| client.list_tenants(options)).await.map_err(told) };
    let moves = async { all(|options| client.list_moves(options)).await.map_err(told) };
    let routers = async { client.list_routers(None).await.map_err(told) };
    let (nodes, cells, tenants, moves, routers) = tokio::join!(nodes, cells, tenants, moves, routers);
    let own_certificate_s = control.target.link.identity().map(|identity| {
        let left = identity.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        i64::try_from(left.as_secs()).unwrap_or(i64::MAX)
    });
    Survey { now_ms: unix_ms(), nodes, cells, tenants, moves, routers, own_certificate_s }
}

/// Every node that was named, and every member that one of these names: a cluster is looked at as a whole.
async fn nodes(control: &Control, patience: Duration) -> Vec<Node> {
    let ask = |endpoints: Vec<String>| {
        futures::future::join_all(
            endpoints.into_iter().map(|endpoint| async move { node(control, &endpoint, patience).await }),
        )
    };
    let mut nodes = ask(control.target.endpoints.clone()).await;
    let unasked = unasked(&nodes);
    nodes.extend(ask(unasked).await);
    nodes
}

/// Members that nobody was asked for, by their addresses.
pub(super) fn unasked(nodes: &[Node]) -> Vec<String> {
    let heard: Vec<&wire::StatusResponse> = nodes.iter().filter_map(|node| node.status.as_ref().ok()).collect();
    let is_known = |member: &wire::Member| {
        heard.iter().any(|status| status.node_id == member.node_id)
            || nodes.iter().any(|node| node.endpoint == member.address)
    };
    let members = heard.iter().flat_map(|status| &status.members);
    let unknown: BTreeSet<&str> =
        members.filter(|member| !is_known(member)).map(|member| member.address.as_str()).collect();
    unknown.into_iter().map(str::to_owned).collect()
}

async fn node(control: &Control, endpoint: &str, patience: Duration) -> Node {
    let asked = unix_ms();
    let status = cluster::status(endpoint, patience, &control.target.link).await;
    let answered = unix_ms();
    let clock_ms = status.as_ref().ok().filter(|status| status.clock_unix_ms > 0).map(|status| {
        let way = answered.saturating_sub(asked);
        let here = i64::try_from(asked + way / 2).unwrap_or(i64::MAX);
        (i64::try_from(status.clock_unix_ms).unwrap_or(i64::MAX).saturating_sub(here), way / 2 + 1)
    });
    let (disk, trail) = match &status {
        Ok(_) => {
            let client = audit::client_of(control, endpoint);
            let (disk, trail) = tokio::join!(client.disk_status(endpoint), audit::trail(&client, 0));
            (disk.map_err(|error| error.to_string()), trail.map_err(|error| error.to_string()))
        }
        Err(error) => (Err(error.to_string()), Err(error.to_string())),
    };
    Node { endpoint: endpoint.to_owned(), status: status.map_err(|error| error.to_string()), clock_ms, disk, trail }
}
