//! What may be typed to break a fleet on purpose.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Experiments.
#[derive(Debug, Subcommand)]
pub enum Drill {
    /// List the drills with what each believes and needs
    List,
    /// Run drills: a fleet of real processes each, a fault, a verdict
    Run(RunDrills),
    /// Run a drill again as its report says: same drill, seed and wiring
    Replay {
        /// A report, as `drill run` writes it: DRILL.json
        file: PathBuf,
        /// Where reports go
        #[arg(long, default_value = "drill-reports", value_name = "DIR")]
        out: PathBuf,
        /// Keep data and logs of all processes in this directory
        #[arg(long, value_name = "DIR")]
        retain: Option<PathBuf>,
    },
    /// Make the pages of a directory of reports anew, the one over all too, and say the verdicts
    Report {
        /// Where `drill run` has written
        directory: PathBuf,
    },
    /// Simulate the mapping store under faults that follow from a seed: real nodes on simulated network, disks and time
    Sim(cell_sim::Arguments),
    /// Plant faults, each in the layer that must catch it, and say what has caught it
    #[cfg(feature = "planted")]
    Planted {
        /// Their names; without one, every fault
        #[arg(value_name = "FAULT")]
        names: Vec<String>,
        /// List the faults instead, each with its layer
        #[arg(long, conflicts_with = "names")]
        list: bool,
    },
    /// Remove what drills that were killed have left on this machine; nothing else is touched
    Clean,
}

/// Which drills, and how.
#[derive(Debug, Clone, Args)]
pub struct RunDrills {
    /// Their names
    #[arg(value_name = "DRILL", required_unless_present = "all")]
    pub names: Vec<String>,
    /// Every drill that this machine allows
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// What choices follow
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How often each is run; every round has the next seed, and a directory round-N of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// How the processes are wired together
    #[arg(long, value_enum, default_value_t = Wires::Auto)]
    pub net: Wires,
    /// Where reports go: a page, JSON and JUnit for each, and a page for all
    #[arg(long, default_value = "drill-reports", value_name = "DIR")]
    pub out: PathBuf,
    /// Keep data and logs of all processes in this directory
    #[arg(long, value_name = "DIR")]
    pub retain: Option<PathBuf>,
    /// Plant a fault in the cells that the checker must find
    #[cfg(feature = "planted")]
    #[arg(long, value_enum)]
    pub plant: Option<super::Plant>,
}

/// Wirings, as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wires {
    /// Namespaces where this user may make them, else the proxy
    Auto,
    /// A network namespace for each process; needs root
    Namespaces,
    /// Forwarders in user space
    Proxy,
}
