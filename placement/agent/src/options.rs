//! What an agent is told when it starts.

use std::path::PathBuf;
use std::time::Duration;

use cell_client::Link;
use cell_model::CellId;
use cell_trust::{PublicKey, Role, TrustedKeys};
use serde::{Deserialize, Serialize};

use crate::error::AgentError;
use crate::hooks::HooksOptions;

/// How long things may take and how large they may grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A gate may serve for this long without hearing from the agent, in milliseconds.
    pub lease_ms: u32,
    /// A write may wait this long for a hold to end before it is refused, in milliseconds.
    pub write_wait_ms: u32,
    /// A write that the copying cell does not confirm within this time is answered as unknown, in milliseconds.
    pub write_confirm_ms: u32,
    /// A confirmation that is missing for longer makes the agent ask to leave sync, in milliseconds.
    pub confirm_overdue_ms: u32,
    /// Captured changes of one tenant beyond this end its move, in bytes.
    pub captured_bytes_max: u64,
    /// sled's cache, in bytes.
    pub cache_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease_ms: 1_000,
            write_wait_ms: 3_000,
            write_confirm_ms: 5_000,
            confirm_overdue_ms: 1_000,
            captured_bytes_max: 64 * 1024 * 1024,
            cache_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Limits {
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }
    pub(crate) fn write_wait(&self) -> Duration {
        Duration::from_millis(self.write_wait_ms.into())
    }
    pub(crate) fn write_confirm(&self) -> Duration {
        Duration::from_millis(self.write_confirm_ms.into())
    }
    pub(crate) fn confirm_overdue(&self) -> Duration {
        Duration::from_millis(self.confirm_overdue_ms.into())
    }
}

/// See the module.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentOptions {
    /// The cell's name.
    pub cell: CellId,
    /// Where its data is. A cell whose tenants are in PostgreSQL notes there what it has answered, so that a database that was put back
    /// makes no second owner; empty: that is forgotten when the agent ends.
    pub directory: PathBuf,
    /// `host:port` to listen at; port 0 takes a free one.
    pub listen: String,
    /// `host:port` under which others reach it; empty: where it listens.
    #[serde(default)]
    pub advertise: String,
    /// `host:port` of the control plane's nodes. Empty: the agent reports to nobody.
    #[serde(default)]
    pub control: Vec<String>,
    /// Directory with ca.crt, tls.crt and tls.key of role agent, in the name of the cell.
    #[serde(default)]
    pub identity: Option<PathBuf>,
    /// Offer everything without certificates, to everybody on this machine. Only on a loopback address.
    #[serde(default)]
    pub insecure_plaintext: bool,
    /// Public keys, in hex, whose signatures on mappings are believed. Empty: those that the control plane names, at each
    /// report, so that a key can be exchanged.
    #[serde(default)]
    pub trusted_keys: Vec<String>,
    /// Who is told what becomes of a tenant that moves.
    #[serde(default)]
    pub hooks: Option<HooksOptions>,
    /// `host:port` at which Prometheus finds what the agent counts, in plain text; absent: nowhere.
    #[serde(default)]
    pub metrics: Option<String>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// A fault to plant.
    #[cfg(feature = "planted")]
    #[serde(default)]
    pub planted: Option<crate::Planted>,
}

impl AgentOptions {
    /// Options with everything but the necessary left at its default.
    #[must_use]
    pub fn new(cell: CellId, directory: PathBuf, listen: impl Into<String>) -> Self {
        Self {
            cell,
            directory,
            listen: listen.into(),
            advertise: String::new(),
            control: Vec::new(),
            identity: None,
            insecure_plaintext: false,
            trusted_keys: Vec::new(),
            hooks: None,
            metrics: None,
            limits: Limits::default(),
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    pub(crate) fn trusted(&self) -> Result<TrustedKeys, AgentError> {
        let mut trusted = TrustedKeys::default();
        for key in &self.trusted_keys {
            let key: PublicKey = key.parse().map_err(|_| AgentError::InvalidOption {
                option: "trusted_keys",
                rule: "each is the 64 hex digits of a public key",
            })?;
            trusted.insert(key);
        }
        Ok(trusted)
    }

    /// How other parts are called, and call.
    pub(crate) fn link(&self) -> Result<Link, AgentError> {
        let link = Link::open(self.identity.as_deref(), self.insecure_plaintext)?;
        if let Some(identity) = link.identity() {
            identity.require(Role::Agent)?;
        }
        Ok(link)
    }

    pub(crate) fn check(&self) -> Result<(), AgentError> {
        let invalid = |option, rule| Err(AgentError::InvalidOption { option, rule });
        if !(100..=60_000).contains(&self.limits.lease_ms) {
            return invalid("limits.lease_ms", "between 100 and 60,000");
        }
        if self.limits.captured_bytes_max < 2 * 1024 * 1024 {
            return invalid("limits.captured_bytes_max", "at least 2 MiB, twice the largest write");
        }
        if self.limits.confirm_overdue_ms >= self.limits.write_confirm_ms {
            return invalid("limits.confirm_overdue_ms", "less than limits.write_confirm_ms");
        }
        Ok(())
    }
}
