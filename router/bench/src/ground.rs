//! What every part is told: where the others are, and where the figures go.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cell_figures::Figures;

use crate::proxies::{Setting, Wire};

/// Where `router/bench/peers` puts what no package puts into the path.
const PEERS: &str = "target/peers";

/// See the module.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Ground {
    /// Write the figures here, as a list in JSON
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Envoy's binary [default: target/peers/envoy, where `make bench-router` puts it]
    #[arg(long, global = true, env = "CELLWAY_ENVOY", value_name = "PROGRAM")]
    envoy: Option<PathBuf>,
    /// The least proxy of Pingora [default: target/peers/least-pingora, where `make bench-router` builds it]
    #[arg(long, global = true, env = "CELLWAY_PINGORA", value_name = "PROGRAM")]
    pingora: Option<PathBuf>,
    /// The router's program: what `compare`, `fair`, `idle`, `instructions` and `train` start [default: a router of this build, within this program]
    #[arg(long, global = true, env = "CELLWAY_ROUTER", value_name = "PROGRAM")]
    router: Option<PathBuf>,
}

impl Ground {
    pub(crate) fn setting(&self, tenants: u32, wire: Wire) -> Setting {
        let origin = SocketAddr::from(([127, 0, 0, 1], 0));
        let (envoy, pingora) = (found(self.envoy.as_ref(), "envoy"), found(self.pingora.as_ref(), "least-pingora"));
        Setting { origin, tenants, wire, envoy, pingora, router: self.router.clone(), counted: None }
    }

    pub(crate) fn write(&self, figures: &Figures) -> anyhow::Result<()> {
        let Some(out) = &self.out else { return Ok(()) };
        figures.write(out).with_context(|| format!("cannot write {}", out.display()))
    }
}

/// What was named; otherwise what is where it is put, if it is.
fn found(named: Option<&PathBuf>, program: &str) -> Option<PathBuf> {
    let usual = || Some(Path::new(PEERS).join(program)).filter(|program| program.exists());
    named.cloned().or_else(usual)
}
