//! What a node is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cell_store::StoreOptions;
use cell_store::engine::LogKind;
use cell_trust::PublicKey;
use serde::{Deserialize, Serialize};

use crate::Error;

/// One node of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    /// Where log and state are kept; made where it does not exist. Each node has one of its own.
    #[arg(long, env = "CELL_DATA_DIR")]
    pub data_dir: PathBuf,

    /// Address on which all services are offered; port 0 takes a free one.
    #[arg(long, env = "CELL_LISTEN", default_value = "127.0.0.1:7000")]
    pub listen: SocketAddr,

    /// host:port at which clients and the other nodes reach this one; the listening address where nothing is said.
    #[arg(long, env = "CELL_ADVERTISE")]
    pub advertise: Option<String>,

    /// File with the key that signs mappings and frames of the watch, the same on all nodes: `cell-control keygen --out FILE` makes it.
    #[arg(long, env = "CELL_SIGNING_KEY_FILE")]
    pub signing_key_file: PathBuf,

    /// Directory with ca.crt, tls.crt and tls.key of role control: who this node is, to others.
    #[arg(long, env = "CELL_IDENTITY", value_name = "DIR")]
    #[serde(default)]
    pub identity: Option<PathBuf>,

    /// Offer everything without certificates, to everybody on this machine. Only on a loopback address.
    #[arg(long)]
    #[serde(default)]
    pub insecure_plaintext: bool,

    /// Public keys, in hex, that sign mappings beside this node's own: the next or the former one, while the key is
    /// exchanged. Agents are told to believe them.
    #[arg(long, env = "CELL_TRUSTED_KEYS", value_delimiter = ',', value_name = "KEY")]
    #[serde(default)]
    pub trusted_keys: Vec<String>,

    /// Refuse to start if the data directory belongs to another cluster than this (16 hexadecimal digits).
    #[arg(long, env = "CELL_CLUSTER")]
    pub cluster: Option<String>,

    /// What keeps the log: segments, or sled. A log that the other has kept goes over to it at the start.
    #[arg(long, default_value_t, value_name = "ENGINE")]
    #[serde(default)]
    pub log_engine: LogKind,

    /// Let every linearizable read ask a majority of the nodes, instead of letting a leader answer by itself while its
    /// lease holds. For machines whose hypervisor may stop them without their clocks showing it.
    #[arg(long, env = "CELL_READ_BY_MAJORITY")]
    #[serde(default)]
    pub read_by_majority: bool,
}

impl Options {
    /// How the store is set up that is reached at `advertise`.
    pub(crate) fn stored(&self, advertise: String) -> StoreOptions {
        let mut stored = StoreOptions { log: self.log_engine, ..StoreOptions::new(&self.data_dir, advertise) };
        if self.read_by_majority {
            stored.timers.read_lease = Duration::ZERO;
        }
        stored
    }

    /// The cluster that the data directory must belong to, if it belongs to one.
    pub(crate) fn wanted_cluster(&self) -> Result<Option<cell_model::ClusterId>, Error> {
        let Some(text) = &self.cluster else { return Ok(None) };
        let number = u64::from_str_radix(text, 16).ok().filter(|number| *number != 0 && text.len() == 16);
        let refuse =
            || Error::Option { option: "cluster", reason: format!("{text:?} is not 16 hexadecimal digits") };
        number.map(cell_model::ClusterId).map(Some).ok_or_else(refuse)
    }

    /// The keys that sign beside this node's own.
    pub(crate) fn other_keys(&self) -> Result<Vec<PublicKey>, Error> {
        let key = |text: &String| {
            text.parse().map_err(|error: cell_trust::InvalidKey| Error::Option {
                option: "trusted-keys",
                reason: error.to_string(),
            })
        };
        self.trusted_keys.iter().map(key).collect()
    }

    /// Where others reach a node that listens on `bound`.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> Result<String, Error> {
        match &self.advertise {
            Some(advertise)
                if advertise.rsplit_once(':').is_some_and(|(host, port)| {
                    !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
                }) =>
            {
                Ok(advertise.clone())
            }
            Some(advertise) => {
                Err(Error::Option { option: "advertise", reason: format!("{advertise:?} is not host:port") })
            }
            None if bound.ip().is_unspecified() => Err(Error::Option {
                option: "advertise",
                reason: format!("it must be given where the node listens on every address ({bound})"),
            }),
            None => Ok(bound.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            data_dir: "data".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            signing_key_file: "key".into(),
            identity: None,
            insecure_plaintext: true,
            trusted_keys: Vec::new(),
            cluster: None,
            log_engine: LogKind::default(),
            read_by_majority: false,
        }
    }

    #[test]
    fn a_leader_has_a_lease_for_reads_unless_a_majority_is_to_be_asked() {
        let by_lease = options().stored("127.0.0.1:1".into());
        assert_eq!(by_lease, StoreOptions::new("data", "127.0.0.1:1"));
        assert!(by_lease.timers.read_lease > Duration::ZERO);
        let options = Options { read_by_majority: true, log_engine: LogKind::Sled, ..options() };
        let by_majority = options.stored("127.0.0.1:1".into());
        assert_eq!((by_majority.timers.read_lease, by_majority.log), (Duration::ZERO, LogKind::Sled));
    }

    #[test]
    fn a_node_is_advertised_where_it_listens_unless_told_otherwise() {
        let bound = "127.0.0.1:7001".parse().unwrap();
        assert_eq!(options().advertised(bound).unwrap(), "127.0.0.1:7001");
        let named = Options { advertise: Some("node-1.example:7000".into()), ..options() };
        assert_eq!(named.advertised(bound).unwrap(), "node-1.example:7000");
    }

    #[test]
    fn an_address_that_nobody_can_call_is_refused() {
        let everywhere = "0.0.0.0:7001".parse().unwrap();
        assert_eq!(options().advertised(everywhere).unwrap_err().code(), "INVALID_OPTION");
        for bad in ["node", ":7000", "node:0", "node:http"] {
            let named = Options { advertise: Some(bad.into()), ..options() };
            assert_eq!(named.advertised(everywhere).unwrap_err().code(), "INVALID_OPTION", "{bad}");
        }
    }

    #[test]
    fn a_cluster_is_sixteen_hexadecimal_digits() {
        let good = Options { cluster: Some("00000000000000ff".into()), ..options() };
        assert_eq!(good.wanted_cluster().unwrap(), Some(cell_model::ClusterId(255)));
        assert_eq!(options().wanted_cluster().unwrap(), None);
        for bad in ["", "ff", "0000000000000000", "00000000000000fg"] {
            let bad = Options { cluster: Some(bad.into()), ..options() };
            assert_eq!(bad.wanted_cluster().unwrap_err().code(), "INVALID_OPTION");
        }
    }
}
