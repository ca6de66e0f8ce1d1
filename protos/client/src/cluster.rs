//! Making a cluster, once.
//!
//! ```text
//! Status on every node ──► Claim(id), by ascending node id ──► Initialize on the lowest ──► a leader
//! ```
//!
//! A node claims one cluster for ever. Whoever claims the lowest node decides the id; another run that comes second there
//! has claimed nothing yet with an id of its own, reads the first one's id and goes on with that. Every step may be
//! repeated, so a run that was cut off is simply run again.

use std::time::Duration;

use cell_model::ClusterId;
use cell_protos::v1;
use cell_protos::v1::cluster_service_client::ClusterServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::channel::{Channels, MAY_WANT_TLS, NO_TLS, WANTS_TLS, told, trailer_of};
use crate::{Link, Random, Server, trailer};

/// How patient [`initialize_with`] is.
#[derive(Debug, Clone)]
pub struct InitializeOptions {
    /// For all of it.
    pub deadline: Duration,
    /// For one call.
    pub attempt: Duration,
    /// Over which link the nodes are called.
    pub link: Link,
    /// Where the cluster's id comes from.
    pub random: Random,
}

impl Default for InitializeOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            attempt: Duration::from_secs(5),
            link: Link::default(),
            random: Random::default(),
        }
    }
}

/// Why a cluster was not made. What was claimed stays claimed; run again, it goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitializeError {
    /// The endpoints name no cluster.
    #[error("{0}")]
    Endpoints(String),
    /// A node does not answer.
    #[error("node {endpoint} does not answer: {reason}")]
    Unreachable {
        /// Which.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// A node belongs to another cluster.
    #[error("node {endpoint} belongs to cluster {found}, the others to {expected}")]
    OtherCluster {
        /// Which.
        endpoint: String,
        /// Its cluster.
        found: ClusterId,
        /// The others' cluster.
        expected: ClusterId,
    },
    /// The cluster exists and has other members.
    #[error("cluster {cluster} exists already, and its members are {members}")]
    OtherMembers {
        /// Which.
        cluster: ClusterId,
        /// Their addresses.
        members: String,
    },
    /// A node refused.
    #[error("node {endpoint} refused: {reason}")]
    Refused {
        /// Which.
        endpoint: String,
        /// Its code.
        code: String,
        /// Why.
        reason: String,
    },
    /// Everybody agreed, but nobody leads.
    #[error("cluster {cluster} is made, but no leader was elected within {patience:?}")]
    NoLeader {
        /// Which.
        cluster: ClusterId,
        /// How long was waited.
        patience: Duration,
    },
}

impl InitializeError {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Endpoints(_) => "CLUSTER_ENDPOINTS",
            Self::Unreachable { .. } => "NODE_UNREACHABLE",
            Self::OtherCluster { .. } => "OTHER_CLUSTER",
            Self::OtherMembers { .. } => "CLUSTER_EXISTS",
            Self::Refused { code, .. } => code,
            Self::NoLeader { .. } => "NO_LEADER",
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Endpoints(_) => "name each node once, as host:port",
            Self::Unreachable { reason, .. } if reason.contains(WANTS_TLS) || reason.contains(MAY_WANT_TLS) => {
                "start the node; and where it has an identity leave out --insecure-plaintext, and say who you are with --identity"
            }
            Self::Unreachable { reason, .. } if reason.contains(NO_TLS) => {
                "give the node an identity; for trying things out on one machine say --insecure-plaintext"
            }
            Self::Unreachable { .. } => "start the node, then run the same command again",
            Self::OtherCluster { .. } => "give a node that is to join another cluster an empty data directory",
            Self::OtherMembers { .. } => "nothing needs to be made; `cellctl cluster status` shows the cluster",
            Self::Refused { .. } => "the log of that node says more; the command may be run again",
            Self::NoLeader { .. } => "check that the nodes reach each other at the addresses that they advertise",
        }
    }
}

/// What one node says of itself.
///
/// # Errors
/// [`InitializeError::Unreachable`]
pub async fn status(
    endpoint: &str,
    patience: Duration,
    link: &Link,
) -> Result<v1::StatusResponse, InitializeError> {
    let channels = Channels::new(link.clone(), Server::Control, patience);
    Nodes { channels, attempt: patience }.status(endpoint).await
}

/// Makes a cluster of the nodes at `endpoints`, or finds that they are one already.
///
/// # Errors
/// [`InitializeError`]
pub async fn initialize(endpoints: &[String]) -> Result<ClusterId, InitializeError> {
    initialize_with(endpoints, InitializeOptions::default()).await
}

/// As [`initialize`], with options.
///
/// # Errors
/// [`InitializeError`]
pub async fn initialize_with(
    endpoints: &[String],
    options: InitializeOptions,
) -> Result<ClusterId, InitializeError> {
    if endpoints.is_empty() {
        return Err(InitializeError::Endpoints("no node is named".into()));
    }
    let deadline = Instant::now() + options.deadline;
    let channels = Channels::new(options.link.clone(), Server::Control, options.attempt);
    let nodes = Nodes { channels, attempt: options.attempt };
    let cluster = loop {
        let seen = nodes.survey(endpoints, deadline).await?;
        if let Some(cluster) = made_already(&seen)? {
            break cluster;
        }
        match nodes.make(&seen, &options.random).await {
            Ok(cluster) => break cluster,
            // Another run was faster, or a node went away for a moment: look again.
            Err(error) if is_worth_another_look(&error) && Instant::now() < deadline => {
                tracing::debug!(%error, "looking at the nodes again");
                tokio::time::sleep(options.random.jitter(Duration::from_millis(100))).await;
            }
            Err(error) => return Err(error),
        }
    };
    while Instant::now() < deadline {
        for endpoint in endpoints {
            if nodes.status(endpoint).await.is_ok_and(|status| !status.leader.is_empty()) {
                return Ok(cluster);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(InitializeError::NoLeader { cluster, patience: options.deadline })
}

fn is_worth_another_look(error: &InitializeError) -> bool {
    matches!(error, InitializeError::Refused { .. } | InitializeError::Unreachable { .. })
}

/// A node, and what it says of itself.
struct Seen {
    endpoint: String,
    status: v1::StatusResponse,
}

impl Seen {
    fn address(&self) -> &str {
        if self.status.advertise.is_empty() { &self.endpoint } else { &self.status.advertise }
    }
}

/// The cluster that all of these nodes are, if they are one.
fn made_already(seen: &[Seen]) -> Result<Option<ClusterId>, InitializeError> {
    let mut claimed = seen.iter().filter(|node| node.status.cluster_id != 0);
    let Some(first) = claimed.next() else { return Ok(None) };
    let expected = ClusterId(first.status.cluster_id);
    if let Some(other) = claimed.find(|node| node.status.cluster_id != expected.0) {
        let found = ClusterId(other.status.cluster_id);
        return Err(InitializeError::OtherCluster { endpoint: other.endpoint.clone(), found, expected });
    }
    let Some(made) = seen.iter().find(|node| node.status.initialized && !node.status.members.is_empty()) else {
        return Ok(None);
    };
    let mut members: Vec<u64> = made.status.members.iter().map(|member| member.node_id).collect();
    members.sort_unstable();
    let asked: Vec<u64> = seen.iter().map(|node| node.status.node_id).collect();
    if members == asked {
        return Ok(Some(expected));
    }
    let members: Vec<&str> = made.status.members.iter().map(|member| member.address.as_str()).collect();
    Err(InitializeError::OtherMembers { cluster: expected, members: members.join(", ") })
}

struct Nodes {
    channels: Channels,
    attempt: Duration,
}

impl Nodes {
    fn client(&self, endpoint: &str) -> Result<ClusterServiceClient<Channel>, InitializeError> {
        let channel = self.channels.to(endpoint);
        Ok(ClusterServiceClient::new(
            channel.map_err(|status| InitializeError::Endpoints(status.message().to_owned()))?,
        ))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.attempt);
        request
    }

    async fn status(&self, endpoint: &str) -> Result<v1::StatusResponse, InitializeError> {
        let mut client = self.client(endpoint)?;
        let answer = tokio::time::timeout(self.attempt, client.status(self.request(v1::StatusRequest {}))).await;
        let unreachable = |reason| InitializeError::Unreachable { endpoint: endpoint.to_owned(), reason };
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if !trailer_of(&status, trailer::CODE).is_empty() => Err(refused(endpoint, &status)),
            Ok(Err(status)) => Err(unreachable(self.channels.told(&status))),
            Err(_) => Err(unreachable(format!("nothing was heard for {:?}", self.attempt))),
        }
    }

    /// Asks every node, again and again until the deadline; by ascending node id.
    async fn survey(&self, endpoints: &[String], deadline: Instant) -> Result<Vec<Seen>, InitializeError> {
        let mut seen = Vec::new();
        for endpoint in endpoints {
            let status = loop {
                match self.status(endpoint).await {
                    Ok(status) => break status,
                    Err(InitializeError::Unreachable { .. }) if Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => return Err(error),
                }
            };
            seen.push(Seen { endpoint: endpoint.clone(), status });
        }
        seen.sort_by_key(|node| node.status.node_id);
        if let Some([one, two]) = seen.array_windows::<2>().find(|[a, b]| a.status.node_id == b.status.node_id) {
            return Err(InitializeError::Endpoints(format!(
                "{} and {} are the same node: two names of one, or one has a copy of the other's data directory",
                one.endpoint, two.endpoint
            )));
        }
        let mut by_address: Vec<&Seen> = seen.iter().collect();
        by_address.sort_by_key(|node| node.address());
        if let Some([one, two]) = by_address.array_windows::<2>().find(|[a, b]| a.address() == b.address()) {
            return Err(InitializeError::Endpoints(format!(
                "{} and {} both say that they are reached at {}: each needs an --advertise of its own",
                one.endpoint,
                two.endpoint,
                one.address()
            )));
        }
        Ok(seen)
    }

    async fn make(&self, seen: &[Seen], random: &Random) -> Result<ClusterId, InitializeError> {
        let known = seen.iter().map(|node| node.status.cluster_id).find(|id| *id != 0);
        let cluster_id = known.unwrap_or_else(|| random.next().max(1));
        for node in seen {
            let claim = self.request(v1::ClaimRequest { cluster_id });
            let mut client = self.client(&node.endpoint)?;
            client.claim(claim).await.map_err(|status| refused(&node.endpoint, &status))?;
        }
        let member = |node: &Seen| v1::Member {
            node_id: node.status.node_id,
            address: node.address().to_owned(),
            voter: true,
        };
        let members = seen.iter().map(member).collect();
        let lowest = &seen[0].endpoint;
        let request = self.request(v1::InitializeRequest { cluster_id, members });
        self.client(lowest)?.initialize(request).await.map_err(|status| refused(lowest, &status))?;
        Ok(ClusterId(cluster_id))
    }
}

fn refused(endpoint: &str, status: &Status) -> InitializeError {
    let endpoint = endpoint.to_owned();
    match trailer_of(status, trailer::CODE) {
        code if code.is_empty() => InitializeError::Unreachable { endpoint, reason: told(status) },
        code => InitializeError::Refused { endpoint, code, reason: status.message().to_owned() },
    }
}
