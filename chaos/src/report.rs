//! What a run has shown: the verdict, the numbers under it, and in which words they are told.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::check::{FaultKind, Findings};
use crate::exercise::{Exercise, Spread};
use crate::gauge::Gauges;
use crate::history::Op;
use crate::shop::Counts;

/// One move as the report tells of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MoveReport {
    /// Its name; empty where it could not be asked for.
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// From where.
    pub source: String,
    /// To where.
    pub target: String,
    /// What was done to it.
    pub twist: String,
    /// A fault was injected while it ran.
    pub fault: bool,
    /// How it ended: completed, cancelled, rolled-back, aborted; `unfinished` where it did not end in time.
    pub end: String,
    /// How it was to end.
    pub wanted_end: String,
    /// Code and reason of an abort.
    pub reason: String,
    /// Tries of its hold.
    pub attempts: u32,
    /// From being asked for to its end, in seconds.
    pub seconds: f64,
    /// Rows that it took along.
    pub rows: u64,
    /// What clients did meanwhile.
    pub exercise: Exercise,
    /// Requests that the target has served before COMMIT.
    pub served_early: usize,
    /// What they should have done and did not.
    pub not_exercised: Option<String>,
}

/// How many moves ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MoveCounts {
    /// The tenant lives on the target.
    pub completed: usize,
    /// Called off.
    pub cancelled: usize,
    /// Brought back.
    pub rolled_back: usize,
    /// Given up by the engine.
    pub aborted: usize,
    /// Never ended, or never began.
    pub unfinished: usize,
}

/// Latencies as clients saw them, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// Of writes.
    pub write: Spread,
    /// Of reads.
    pub read: Spread,
}

impl Latencies {
    /// Of all requests that were answered.
    #[must_use]
    pub fn of<'a>(ops: impl Iterator<Item = &'a Op> + Clone) -> Self {
        let of = |writes: bool| {
            let wanted = ops.clone().filter(|op| op.is_done() && op.action.is_write() == writes);
            Spread::of_micros(wanted.map(Op::latency).collect())
        };
        Self { write: of(true), read: of(false) }
    }
}

/// Requests that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failed {
    /// How many.
    pub count: u64,
    /// The first of them, as people read it.
    pub first: Vec<String>,
}

impl Failed {
    const FIRST_MAX: usize = 50;

    /// Of a history.
    #[must_use]
    pub fn of(ops: &[Op]) -> Self {
        let failed = || ops.iter().filter(|op| op.failed);
        let text = |op: &Op| {
            let (at, took) = (op.invoked / 1_000, op.latency() / 1_000);
            format!("at {at} ms, after {took} ms: {} {:?}: {:?}", op.tenant, op.action, op.outcome)
        };
        Self { count: failed().count() as u64, first: failed().take(Self::FIRST_MAX).map(text).collect() }
    }

    /// Those of another load, too.
    pub fn add(&mut self, others: impl Iterator<Item = String>) {
        for other in others {
            self.count += 1;
            if self.first.len() < Self::FIRST_MAX {
                self.first.push(other);
            }
        }
    }
}

/// Memory of one process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProcessReport {
    /// At the end.
    pub rss_mib: f64,
    /// At the most.
    pub peak_mib: f64,
}

/// What was done in shops, where there were any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShopReport {
    /// How much.
    #[serde(flatten)]
    pub counts: Counts,
    /// Orders that were acknowledged while their tenant moved.
    pub orders_while_moving: u64,
    /// Moves in which there was none.
    #[serde(skip)]
    pub untouched: Vec<String>,
}

/// Pass or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing was lost, duplicated or reordered, nothing failed, everything was exercised.
    Pass,
    /// Something was.
    Fail,
}

/// What was looked at besides the client history.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// What differs between cells and routers, or between a move's two copies.
    pub mismatches: Vec<String>,
    /// Requests that a cell has sent on to the newer owner.
    pub stale_redirects: u64,
    /// What else went wrong: processes that fell, steps of the demo that did not come about.
    pub trouble: Vec<String>,
    /// Memory by process.
    pub processes: BTreeMap<String, ProcessReport>,
    /// What the machine itself cost meanwhile.
    pub machine: Option<Gauges>,
    /// What was done in shops.
    pub shop: Option<ShopReport>,
}

/// The report of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Of this shape.
    #[serde(rename = "apiVersion")]
    pub api_version: &'static str,
    /// What it is.
    pub kind: &'static str,
    /// What its choices followed.
    pub seed: u64,
    /// The fault that was planted on purpose; empty in honest runs.
    pub planted: String,
    /// Pass or fail.
    pub verdict: Verdict,
    /// Why it failed; empty where it passed.
    pub reasons: Vec<String>,
    /// How long it took, start-up and checks included.
    pub seconds: f64,
    /// How many tenants there were.
    pub tenants: usize,
    /// Writes that clients were told are done.
    pub acked_writes: u64,
    /// Of them, per second, while the load ran.
    pub writes_per_second: f64,
    /// Writes whose outcome no client knows.
    pub unknown_writes: u64,
    /// Acknowledged, and not there.
    pub lost_writes: u64,
    /// Done more than once.
    pub duplicated_writes: u64,
    /// Older values in place of newer ones, and reads that went back.
    pub reordered_writes: u64,
    /// Deleted and there again.
    pub resurrected_deletes: u64,
    /// Found with another tenant.
    pub leaked_values: u64,
    /// Never written, and there.
    pub phantom_values: u64,
    /// Of whose parts some are there and others are not.
    pub torn_transactions: u64,
    /// Requests that ended in a 5xx, a broken connection or no answer.
    pub failed_requests: u64,
    /// The first of them.
    pub failed_request_details: Vec<String>,
    /// Requests that a target has served before it owned.
    pub served_early: usize,
    /// Reads that were answered.
    pub reads: u64,
    /// How moves ended.
    pub moves: MoveCounts,
    /// Longest write of each hold without an injected fault.
    pub write_hold_ms: Spread,
    /// Longest read of each fence without an injected fault.
    pub read_gap_ms: Spread,
    /// Longest write of each hold with an injected fault.
    pub write_hold_with_fault_ms: Spread,
    /// Longest read of each fence with an injected fault.
    pub read_gap_with_fault_ms: Spread,
    /// All requests.
    pub request_ms: Latencies,
    /// Requests that a cell has sent on to the newer owner.
    pub stale_redirects: u64,
    /// Moves that clients did not exercise, and promises of the run that did not come about.
    pub not_exercised: usize,
    /// Which those are.
    pub not_exercised_details: Vec<String>,
    /// Copies that differ: in a move's own verification, or at the end.
    pub verify_mismatches: usize,
    /// Which those are.
    pub verify_mismatch_details: Vec<String>,
    /// What is wrong, in detail.
    pub faults: Vec<crate::check::Fault>,
    /// Each move.
    pub move_details: Vec<MoveReport>,
    /// What was done in shops; null where there were none.
    pub shop: Option<ShopReport>,
    /// Memory by process.
    pub processes: BTreeMap<String, ProcessReport>,
    /// What the machine itself cost meanwhile; null where that could not be measured.
    pub machine: Option<Gauges>,
}

/// What a report is made of.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What the run's choices followed.
    pub seed: u64,
    /// The fault that was planted on purpose.
    pub planted: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// How long the load ran.
    pub load_seconds: f64,
    /// How many tenants there were.
    pub tenants: usize,
    /// Writes per second that were promised.
    pub writes_per_second_wanted: u32,
    /// What the oracle says.
    pub findings: Findings,
    /// Requests that failed.
    pub failed: Failed,
    /// Latencies.
    pub request_ms: Latencies,
    /// Each move.
    pub moves: Vec<MoveReport>,
    /// What was seen besides.
    pub observed: Observed,
}

impl Report {
    /// Judges the evidence.
    #[must_use]
    pub fn new(evidence: Evidence) -> Self {
        let Evidence { findings, moves, observed, .. } = evidence;
        let writes_per_second = findings.acked_writes as f64 / evidence.load_seconds.max(0.001);
        let mut not_exercised: Vec<String> = moves
            .iter()
            .filter_map(|one| Some(format!("{} of {}: {}", one.id, one.tenant, one.not_exercised.as_ref()?)))
            .collect();
        if writes_per_second < f64::from(evidence.writes_per_second_wanted) {
            let wanted = evidence.writes_per_second_wanted;
            not_exercised.push(format!("{writes_per_second:.0} writes a second, and {wanted} were promised"));
        }
        not_exercised.extend(observed.shop.iter().flat_map(|shop| shop.untouched.iter().cloned()));
        let spread = |fault: bool, of: fn(&Exercise) -> &Vec<u64>| {
            let chosen = moves.iter().filter(|one| one.fault == fault);
            Spread::of_micros(chosen.flat_map(|one| of(&one.exercise).iter().copied()).collect())
        };
        let mut report = Self {
            api_version: "cellway.dev/v1",
            kind: "DemoReport",
            seed: evidence.seed,
            planted: evidence.planted.unwrap_or_default(),
            verdict: Verdict::Pass,
            reasons: Vec::new(),
            seconds: evidence.seconds,
            tenants: evidence.tenants,
            acked_writes: findings.acked_writes,
            writes_per_second,
            unknown_writes: findings.unknown_writes,
            lost_writes: findings.count(FaultKind::Lost),
            duplicated_writes: findings.count(FaultKind::Duplicated),
            reordered_writes: findings.count(FaultKind::Reordered),
            resurrected_deletes: findings.count(FaultKind::Resurrected),
            leaked_values: findings.count(FaultKind::Leaked),
            phantom_values: findings.count(FaultKind::Phantom),
            torn_transactions: findings.count(FaultKind::Torn),
            failed_requests: evidence.failed.count,
            failed_request_details: evidence.failed.first,
            served_early: moves.iter().map(|one| one.served_early).sum(),
            reads: findings.reads,
            moves: count(&moves),
            write_hold_ms: spread(false, |exercise| &exercise.write_holds),
            read_gap_ms: spread(false, |exercise| &exercise.read_gaps),
            write_hold_with_fault_ms: spread(true, |exercise| &exercise.write_holds),
            read_gap_with_fault_ms: spread(true, |exercise| &exercise.read_gaps),
            request_ms: evidence.request_ms,
            stale_redirects: observed.stale_redirects,
            not_exercised: not_exercised.len(),
            not_exercised_details: not_exercised,
            verify_mismatches: observed.mismatches.len(),
            verify_mismatch_details: observed.mismatches,
            faults: findings.faults,
            move_details: moves,
            shop: observed.shop,
            processes: observed.processes,
            machine: observed.machine,
        };
        report.reasons = report.reasons_to_fail(observed.trouble);
        report.verdict = if report.reasons.is_empty() { Verdict::Pass } else { Verdict::Fail };
        report
    }

    fn reasons_to_fail(&self, trouble: Vec<String>) -> Vec<String> {
        let counted = [
            (self.lost_writes, "acknowledged writes are lost"),
            (self.duplicated_writes, "writes were done more than once"),
            (self.reordered_writes, "values or reads went back"),
            (self.resurrected_deletes, "deleted documents are there again"),
            (self.leaked_values, "values are with another tenant"),
            (self.phantom_values, "values are there that nobody wrote"),
            (self.torn_transactions, "transactions are there in part"),
            (self.served_early as u64, "requests were served by a cell before it owned"),
            (self.failed_requests, "requests failed"),
            (self.verify_mismatches as u64, "copies differ"),
            (self.not_exercised as u64, "promises of the run were not exercised"),
        ];
        let counted = counted.into_iter().filter(|(count, _)| *count > 0);
        let ends = self.move_details.iter().filter(|one| one.end != one.wanted_end).map(|one| {
            let reason = if one.reason.is_empty() { String::new() } else { format!(" ({})", one.reason) };
            format!("move {} of {} was to end {} and is {}{reason}", one.id, one.tenant, one.wanted_end, one.end)
        });
        counted.map(|(count, what)| format!("{count} {what}")).chain(ends).chain(trouble).collect()
    }

    /// Some lines for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let moves = &self.moves;
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<18}{value}");
        };
        line("writes", format!("{} acknowledged, {:.0} a second", self.acked_writes, self.writes_per_second));
        line(
            "of them",
            format!(
                "{} lost · {} duplicated · {} reordered",
                self.lost_writes, self.duplicated_writes, self.reordered_writes
            ),
        );
        line("reads", format!("{}", self.reads));
        if let Some(ShopReport { counts, orders_while_moving, .. }) = &self.shop {
            let (orders, back) = (counts.orders, counts.taken_back);
            line(
                "shop",
                format!(
                    "{orders} orders, {orders_while_moving} in a move · {back} taken back · {} torn",
                    self.torn_transactions
                ),
            );
        }
        line("failed requests", format!("{}", self.failed_requests));
        line(
            "moves",
            format!(
                "{} completed · {} cancelled · {} rolled back · {} aborted",
                moves.completed, moves.cancelled, moves.rolled_back, moves.aborted
            ),
        );
        line("write hold", times(&self.write_hold_ms));
        line("read gap", times(&self.read_gap_ms));
        line(
            "… with a fault",
            format!(
                "write {}, read {}",
                times(&self.write_hold_with_fault_ms),
                times(&self.read_gap_with_fault_ms)
            ),
        );
        line("stale redirects", format!("{}", self.stale_redirects));
        let largest = self.processes.iter().max_by(|one, other| one.1.rss_mib.total_cmp(&other.1.rss_mib));
        if let Some((name, memory)) = largest {
            line("largest process", format!("{name}, {:.0} MiB resident", memory.rss_mib));
        }
        for reason in &self.reasons {
            line("✗", reason.clone());
        }
        for fault in self.faults.iter().take(5) {
            line("✗", format!("{} {} {}: {}", fault.kind.as_str(), fault.tenant, fault.object, fault.detail));
        }
        for detail in self.failed_request_details.iter().take(5) {
            line("✗", detail.clone());
        }
        for detail in self.not_exercised_details.iter().chain(&self.verify_mismatch_details).take(5) {
            line("✗", detail.clone());
        }
        text
    }
}

fn times(spread: &Spread) -> String {
    format!("p50 {:.1} ms · p99 {:.1} ms · max {:.1} ms ({})", spread.p50, spread.p99, spread.max, spread.count)
}

fn count(moves: &[MoveReport]) -> MoveCounts {
    let mut counts = MoveCounts::default();
    for one in moves {
        let counter = match one.end.as_str() {
            "completed" => &mut counts.completed,
            "cancelled" => &mut counts.cancelled,
            "rolled-back" => &mut counts.rolled_back,
            "aborted" => &mut counts.aborted,
            _ => &mut counts.unfinished,
        };
        *counter += 1;
    }
    counts
}
