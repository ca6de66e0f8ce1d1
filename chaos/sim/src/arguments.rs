//! What may be asked of the simulation on a command line, by its own program and by `cellctl drill sim`.

use std::ops::Range;

use clap::Args;

use crate::Flaw;

/// Which runs.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Seeds to run, one process each: from A up to and without B
    #[arg(long, value_name = "A..B", value_parser = seeds, required_unless_present = "seed")]
    pub seeds: Option<Range<u64>>,
    /// One seed to run in this process
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "jobs", "twice", "only_failed"])]
    pub seed: Option<u64>,
    /// Control nodes, a router and cells, rather than the store alone
    #[arg(long)]
    pub fleet: bool,
    /// How long things break, in seconds of simulated time
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub faults: u64,
    /// How many seeds run at once
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// Run each seed twice: both must leave the same trace
    #[arg(long)]
    pub twice: bool,
    /// Print a line for failed seeds only
    #[arg(long)]
    pub only_failed: bool,
    /// Print what happens
    #[arg(long)]
    pub trace: bool,
    /// Plant a fault into the harness, which must then be found
    #[arg(long, value_enum)]
    pub flaw: Option<Flaw>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, until) = text.split_once("..").ok_or("seeds are written A..B")?;
    let number = |part: &str| part.parse::<u64>().map_err(|error| format!("{part}: {error}"));
    let range = number(from)?..number(until)?;
    if range.is_empty() { Err("there is no seed between them".into()) } else { Ok(range) }
}

impl Arguments {
    /// What runs one seed of these, as it is typed behind the program's name.
    #[must_use]
    pub(crate) fn of_one(&self, seed: u64) -> Vec<String> {
        let mut words = vec!["--seed".into(), seed.to_string(), "--faults".into(), self.faults.to_string()];
        if self.fleet {
            words.push("--fleet".into());
        }
        if let Some(flaw) = self.flaw {
            words.extend(["--flaw".into(), flaw.to_string()]);
        }
        words
    }
}
