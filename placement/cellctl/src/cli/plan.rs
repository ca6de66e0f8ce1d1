//! What may be typed of placement: `plan`, `explain`, `apply`.

use std::path::PathBuf;
use std::time::Duration;

use cell_model::{CellId, TenantId, UnixMillis};
use clap::{Args, Subcommand};

/// Which fleet is looked at: a file, or the one that the control plane has.
#[derive(Debug, Clone, Default, Args)]
pub struct FleetArgs {
    /// Work on this fleet, without a control plane: a JSON document, or a directory with cells.csv and tenants.csv
    #[arg(long, value_name = "FILE|DIR")]
    pub fleet: Option<PathBuf>,
    /// What the live fleet's cells can do and its tenants want: a fleet file, whose places do not count
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "fleet")]
    pub profile: Option<PathBuf>,
}

/// How it is judged.
#[derive(Debug, Clone, Default, Args)]
pub struct JudgeArgs {
    /// Numbers of the policy, as JSON: risk, high_water, low_water, gain_min …
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Key of the ring of default homes; the same seed gives the same answer
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

/// How much a plan may do.
#[derive(Debug, Clone, Args)]
pub struct BoundArgs {
    /// The most moves
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub max_moves: u32,
    /// The most that may be copied, as 500GB or 2TiB [default: no bound]
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub max_bytes: Option<u64>,
    /// The most moves at the same time
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub at_once: u32,
    /// The most moves at the same time that one cell takes part in
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub at_once_per_cell: u32,
    /// Time for which cooldowns are looked at [default: now]
    #[arg(long, value_parser = time, value_name = "RFC 3339")]
    pub at: Option<UnixMillis>,
    /// Exit with 2 where the plan has moves
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// What is to be planned.
#[derive(Debug, Clone, Subcommand)]
pub enum Plan {
    /// Where tenants that are nowhere yet belong, and why
    Place {
        /// Which tenants [default: all that are nowhere yet]
        tenants: Vec<TenantId>,
        #[command(flatten)]
        of: FleetArgs,
        #[command(flatten)]
        judge: JudgeArgs,
    },
    /// Put right what breaks a constraint, then bring hot cells down
    Rebalance(Asked),
    /// Put right what breaks a constraint; touch nothing else
    Repair(Asked),
    /// Empty cells
    Drain {
        /// Which
        #[arg(required = true)]
        cells: Vec<CellId>,
        #[command(flatten)]
        asked: Asked,
    },
    /// What happens if a cell is lost: who goes where, and who finds no room
    FailCell {
        /// Which; several fail at the same time
        #[arg(required = true)]
        cells: Vec<CellId>,
        #[command(flatten)]
        of: FleetArgs,
        #[command(flatten)]
        judge: JudgeArgs,
    },
    /// Write the fleet as a file, to plan with it elsewhere
    Export {
        /// A JSON file, or a directory for cells.csv and tenants.csv where the name ends with '/' [default: print JSON]
        #[arg(long, value_name = "FILE|DIR/")]
        to: Option<PathBuf>,
        #[command(flatten)]
        of: FleetArgs,
    },
}

/// What every plan of moves is asked with.
#[derive(Debug, Clone, Args)]
pub struct Asked {
    #[command(flatten)]
    pub(crate) of: FleetArgs,
    #[command(flatten)]
    pub(crate) judge: JudgeArgs,
    #[command(flatten)]
    pub(crate) bounds: BoundArgs,
}

/// What can be explained.
#[derive(Debug, Clone, Subcommand)]
pub enum Explain {
    /// A tenant: where it is, where it would be best, what speaks against every other cell
    #[command(visible_alias = "t")]
    Tenant {
        /// Its name
        name: TenantId,
        #[command(flatten)]
        of: FleetArgs,
        #[command(flatten)]
        judge: JudgeArgs,
    },
}

/// `apply`.
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// A plan that `cellctl plan … -o json` has written; '-' reads it from standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// How long each new owner serves before its move is final and the next wave may begin
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s", value_name = "DURATION")]
    pub soak: Duration,
    /// How long old copies are kept after that
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1h", value_name = "DURATION")]
    pub retain: Duration,
}

/// Bytes as people write them: `1048576`, `500MB`, `1.5 TiB`.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 10] = [
        ("", 1.0),
        ("b", 1.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
        ("kib", 1024.0),
        ("mib", 1_048_576.0),
        ("gib", 1_073_741_824.0),
        ("tib", 1_099_511_627_776.0),
    ];
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim().to_lowercase();
    let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let value = number.parse::<f64>().ok().zip(scale).map(|(number, scale)| (number * scale).round());
    match value {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "its range has just been asked"
        )]
        Some(value) if (1.0..=9e15).contains(&value) => Ok(value as u64),
        _ => Err("give a size from 1 byte to 9 PB, as 500MB, 2TB or 1.5TiB".to_owned()),
    }
}

fn time(text: &str) -> Result<UnixMillis, String> {
    let at = humantime::parse_rfc3339_weak(text).map_err(|error| format!("{error}: as 2026-03-01T06:00:00Z"))?;
    let since = at.duration_since(std::time::UNIX_EPOCH).map_err(|_| "a time after 1970 is wanted".to_owned())?;
    u64::try_from(since.as_millis()).map(UnixMillis).map_err(|_| "that is too far away".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!([bytes("7"), bytes("500MB"), bytes("1.5 TiB")], [Ok(7), Ok(500_000_000), Ok(1_649_267_441_664)]);
        for bad in ["", "0", "-1", "12 parsecs", "1e300", "99999TB", "1.2.3GB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_as_rfc_3339_has_them() {
        assert_eq!(time("1970-01-02T00:00:00Z"), Ok(UnixMillis(86_400_000)));
        assert!(time("tomorrow").is_err_and(|said| said.contains("2026-03-01T06:00:00Z")));
    }
}
