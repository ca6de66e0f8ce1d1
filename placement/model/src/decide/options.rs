//! What people and agents give with a command: whether it is within its limits.

use crate::rule::require;
use crate::{MoveOptions, Phase, Rejected, Rule};

pub(super) fn invalid(option: &str, rule: impl Into<String>) -> Rejected {
    Rejected::InvalidOption { option: option.into(), rule: rule.into() }
}

/// The most instances that one cell may name: each is an address in every router's table.
const GATES_MAX: usize = 256;

fn check_endpoint(option: &str, endpoint: &str) -> Result<(), Rejected> {
    let well_formed = endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && host.len() <= 255 && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    require(Rule::CellEndpoint, well_formed, || invalid(option, format!("{endpoint:?} is not HOST:PORT")))
}

pub(super) fn check_endpoints(gates: &[String], agent: &str) -> Result<(), Rejected> {
    require(Rule::CellGates, gates.len() <= GATES_MAX, || {
        invalid("gates", format!("at most {GATES_MAX} instances a cell"))
    })?;
    gates.iter().try_for_each(|gate| check_endpoint("gates", gate))?;
    check_endpoint("agent", agent)
}

const RETRIES_MAX: u32 = 1_000;
const STEADY_MS_MAX: u32 = 10 * 60 * 1_000;
const SOAK_MS_MAX: u32 = 14 * 24 * 3_600 * 1_000;
const RETAIN_MS_MAX: u64 = 365 * 24 * 3_600 * 1_000;

pub(super) fn check_options(options: &MoveOptions) -> Result<(), Rejected> {
    let cap = MoveOptions::HOLD_CAP_MS;
    require(Rule::OptionHold, (1..=cap).contains(&options.hold_max_ms), || {
        invalid("max-hold", format!("{} ms is not between 1 ms and the cap of {cap} ms", options.hold_max_ms))
    })?;
    if let Some(until) = options.until {
        require(Rule::OptionUntil, !matches!(until, Phase::Unfence | Phase::Cleanup), || {
            invalid("until", format!("{until} is on the way back: choose a phase from preflight to soak"))
        })?;
        require(Rule::OptionRehearse, !options.rehearse || until < Phase::Fenced, || {
            invalid("until", format!("a rehearsal never comes behind {until}: leave one of the two out"))
        })?;
    }
    check_rate(options.bytes_per_second)?;
    let most = MoveOptions::REASON_MAX;
    let is_line = options.reason.len() <= most && !options.reason.contains(char::is_control);
    require(Rule::OptionReason, is_line, || invalid("reason", format!("one line of at most {most} bytes")))?;
    require(Rule::OptionRetries, options.retries <= RETRIES_MAX, || {
        invalid("retries", format!("at most {RETRIES_MAX}"))
    })?;
    let steady = options.sync_steady_ms <= STEADY_MS_MAX;
    require(Rule::OptionSteady, steady, || invalid("sync-steady", "at most ten minutes"))?;
    require(Rule::OptionSoak, options.soak_ms <= SOAK_MS_MAX, || invalid("soak", "at most fourteen days"))?;
    require(Rule::OptionRetain, options.retain_ms <= RETAIN_MS_MAX, || invalid("retain", "at most a year"))
}

pub(super) fn check_rate(bytes_per_second: u64) -> Result<(), Rejected> {
    let least = MoveOptions::BYTES_PER_SECOND_MIN;
    require(Rule::OptionRate, bytes_per_second == 0 || bytes_per_second >= least, || {
        invalid("bytes-per-second", format!("{bytes_per_second} is too slow: at least {least}, or 0 for no limit"))
    })
}
