//! `cluster init` and `cluster status`: the control nodes themselves.

use std::time::Duration;

use cell_client::Link;
use cell_client::cluster::{self, InitializeOptions};
use serde::Serialize;

use crate::cli::{Cluster, Global};
use crate::console;
use crate::endpoints::{self, Target};
use crate::failure::{Exit, Failure};
use crate::render;
use crate::view::View;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    endpoint: String,
    reachable: bool,
    role: String,
    cluster: String,
    leader: String,
    term: u64,
    revision: u64,
    last_log_index: u64,
    applied_index: u64,
    version: String,
    error: Option<String>,
}

impl View for NodeView {
    const KIND: &'static str = "ControlNode";
    const COLUMNS: &'static [&'static str] =
        &["ENDPOINT", "ROLE", "CLUSTER", "LEADER", "TERM", "REVISION", "LOG", "APPLIED", "VERSION"];

    fn row(&self) -> Vec<String> {
        if let Some(error) = &self.error {
            return vec![self.endpoint.clone(), format!("unreachable: {error}")];
        }
        vec![
            self.endpoint.clone(),
            self.role.clone(),
            self.cluster.clone(),
            self.leader.clone(),
            self.term.to_string(),
            self.revision.to_string(),
            self.last_log_index.to_string(),
            self.applied_index.to_string(),
            self.version.clone(),
        ]
    }

    fn name(&self) -> String {
        format!("node/{}", self.endpoint)
    }
}

pub(super) async fn run(global: Global, command: Cluster) -> Result<Exit, Failure> {
    let Target { endpoints, link } = endpoints::resolve(&global)?;
    match command {
        Cluster::Init => {
            let made =
                cluster::initialize_with(&endpoints, InitializeOptions { link, ..InitializeOptions::default() })
                    .await;
            let made = made.map_err(|error| Failure::new(error.code(), error.to_string(), error.hint()))?;
            console::data(&format!("{made}\n"));
            console::note(&format!(
                "cluster {made} has {} nodes; `cellctl cluster status` shows them",
                endpoints.len()
            ));
            Ok(Exit::Done)
        }
        Cluster::Status => status(&global, &endpoints, &link).await,
    }
}

async fn status(global: &Global, endpoints: &[String], link: &Link) -> Result<Exit, Failure> {
    let patience = global.timeout.min(Duration::from_secs(3));
    let asked = endpoints.iter().map(|endpoint| async move { node(endpoint, patience, link).await });
    let nodes = futures::future::join_all(asked).await;
    console::data(&render::list(&nodes, global.output, !global.no_headers));
    let reachable = nodes.iter().filter(|node| node.reachable).count();
    let led = nodes.iter().any(|node| node.role == "leader");
    if led && reachable == nodes.len() {
        return Ok(Exit::Done);
    }
    let message =
        format!("{reachable} of {} nodes answer and {} leads", nodes.len(), if led { "one" } else { "none" });
    let hint = "start the missing nodes; `cellctl cluster init` makes a cluster of new ones";
    Err(Failure { exit: Exit::Unavailable, ..Failure::new("NO_QUORUM_SEEN", message, hint) })
}

async fn node(endpoint: &str, patience: Duration, link: &Link) -> NodeView {
    match cluster::status(endpoint, patience, link).await {
        Ok(status) => NodeView {
            endpoint: endpoint.to_owned(),
            reachable: true,
            role: match (status.initialized, status.is_leader) {
                (false, _) => "new".into(),
                (true, true) => "leader".into(),
                (true, false) => "follower".into(),
            },
            cluster: format!("{:016x}", status.cluster_id),
            leader: if status.leader.is_empty() { "-".into() } else { status.leader },
            term: status.term,
            revision: status.revision,
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            version: status.version,
            error: None,
        },
        Err(error) => NodeView {
            endpoint: endpoint.to_owned(),
            reachable: false,
            role: "unreachable".into(),
            cluster: String::new(),
            leader: String::new(),
            term: 0,
            revision: 0,
            last_log_index: 0,
            applied_index: 0,
            version: String::new(),
            error: Some(error.to_string()),
        },
    }
}
