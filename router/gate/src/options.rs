//! What an operator may say about a gate.

use serde::{Deserialize, Serialize};

use crate::admission::WaitLimits;
use crate::tls::GateTls;

/// Options of one gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GateOptions {
    /// `host:port` of the cell's agent.
    pub agent: String,
    /// The gate's name within its cell.
    pub instance: String,
    /// `host:port` to listen on; port 0 lets the system choose.
    pub listen: String,
    /// `host:port` at which routers reach the gate, where it is not the one that it listens on.
    #[serde(default)]
    pub address: Option<String>,
    /// Directory with ca.crt, tls.crt and tls.key of role agent, in the name of the cell. None: plaintext, which an agent
    /// that has an identity of its own does not take.
    #[serde(default)]
    pub identity: Option<std::path::PathBuf>,
    /// How long and how many requests may wait for a grant to change.
    #[serde(default)]
    pub wait: WaitLimits,
    /// Limits of the HTTP front.
    #[serde(default)]
    pub http: HttpLimits,
    /// TLS towards routers. None: in the clear.
    #[serde(default)]
    pub tls: Option<GateTls>,
    /// Public keys, in hex, of the routers whose signed context is believed. None: no context is asked for.
    #[serde(default)]
    pub context_keys: Vec<String>,
    /// Faults to plant.
    #[cfg(feature = "planted")]
    #[serde(default)]
    pub planted: crate::decision::Planted,
}

impl GateOptions {
    /// A gate named `instance` that listens on `listen`, with every limit at its default.
    #[must_use]
    pub fn new(agent: impl Into<String>, instance: impl Into<String>, listen: impl Into<String>) -> Self {
        Self {
            agent: agent.into(),
            instance: instance.into(),
            listen: listen.into(),
            address: None,
            identity: None,
            wait: WaitLimits::default(),
            http: HttpLimits::default(),
            tls: None,
            context_keys: Vec::new(),
            #[cfg(feature = "planted")]
            planted: crate::decision::Planted::default(),
        }
    }
}

/// Limits of the HTTP front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HttpLimits {
    /// Connections at the same time; more wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// The longest that a connection may wait for a request's head, in milliseconds.
    pub idle_ms: u64,
    /// The longest that the application may take for its answer, since the last piece of the request's body, in milliseconds.
    pub application_ms: u64,
    /// The longest that a question for the newest mapping may take, in milliseconds.
    pub newest_ms: u64,
    /// The longest that requests in flight may take to finish at shutdown, in milliseconds.
    pub quiesce_ms: u64,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            header_bytes: 32 * 1024,
            headers: 100,
            body_bytes: 1024 * 1024,
            idle_ms: 60_000,
            application_ms: 30_000,
            newest_ms: 1_000,
            quiesce_ms: 5_000,
        }
    }
}
