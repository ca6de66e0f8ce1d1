//! What a drill has shown, as data: for programs as JSON and JUnit, for people by [`super::page`].

#[cfg(test)]
pub(super) mod tests;

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::RunOptions;
use super::evidence::{Answered, Evidence, FaultSpan, Mark, MoveTrace, Sample};
use super::verdict::{DrillVerdict, Finding, Tally, is_steady};
use super::{Drill, Group};
use crate::clock::Micros;
use crate::exercise::Spread;
use crate::history::Op;
use crate::wiring::Net;

/// What the page draws one column of: so long, in microseconds.
const BUCKET: Micros = 250_000;

/// The report of one drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillReport {
    /// Of this shape.
    pub api_version: String,
    /// What it is.
    pub kind: String,
    /// Which drill.
    pub drill: String,
    /// A line for people.
    pub title: String,
    /// What was believed to hold.
    pub hypothesis: String,
    /// What the fleet did before.
    pub steady_state: String,
    /// What was done to it.
    pub fault: String,
    /// What choices followed.
    pub seed: u64,
    /// The wiring.
    pub net: Net,
    /// The fault that was planted in the cells on purpose; empty in honest runs.
    pub planted: String,
    /// Cellway's version, and its commit where the build was told of it (`CELLWAY_COMMIT`).
    pub version: String,
    /// When it ended, in milliseconds since 1970.
    pub ended_unix_ms: u64,
    /// How long all of it took.
    pub seconds: f64,
    /// How it has come out.
    pub verdict: DrillVerdict,
    /// What was to hold, and what was seen.
    pub findings: Vec<Finding>,
    /// Requests of clients.
    pub requests: usize,
    /// Writes that clients were told are done.
    pub acked_writes: u64,
    /// Each tenant.
    pub tenants: Vec<TenantRow>,
    /// Each cell, by where its tenants began.
    pub cells: Vec<CellRow>,
    /// Faults, on the clock of the run in microseconds.
    pub faults: Vec<FaultSpan>,
    /// What else happened.
    pub marks: Vec<Mark>,
    /// Moves.
    pub moves: Vec<MoveTrace>,
    /// Commands to the control plane.
    pub commands: Vec<Answered>,
    /// What the fleet said of itself.
    pub samples: Vec<Sample>,
    /// What clients saw, piece by piece.
    pub buckets: Vec<Bucket>,
    /// The parts of the run: steady state, fault, end.
    pub parts: Parts,
}

/// When the parts of a run began and ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parts {
    /// The steady state.
    pub steady: (Micros, Micros),
    /// From the first fault to the last heal.
    pub fault: (Micros, Micros),
    /// The end of the load.
    pub end: Micros,
}

/// Availability of one tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantRow {
    /// Its name.
    pub name: String,
    /// Where it began: a cell, counted from 1.
    pub cell: usize,
    /// Before.
    pub steady: Tally,
    /// During the fault.
    pub fault: Tally,
    /// Afterwards.
    pub after: Tally,
    /// The longest request in milliseconds.
    pub worst_ms: u64,
}

/// Availability of the tenants that began on one cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CellRow {
    /// Which, counted from 1.
    pub cell: usize,
    /// Before.
    pub steady: Tally,
    /// During the fault.
    pub fault: Tally,
    /// Afterwards.
    pub after: Tally,
}

/// What clients saw in a short time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// When it begins.
    pub at: Micros,
    /// Requests that were answered.
    pub done: usize,
    /// That failed.
    pub failed: usize,
    /// That were refused without having failed: 429.
    pub refused: usize,
    /// Half of the answered took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
}

impl DrillReport {
    /// Tells of the evidence.
    pub(super) fn new(
        drill: &Drill,
        options: &RunOptions,
        evidence: Evidence,
        findings: Vec<Finding>,
        took: Duration,
    ) -> Self {
        let parts = Parts { steady: evidence.steady, fault: evidence.fault, end: evidence.end };
        Self {
            api_version: "cellway.dev/v1".into(),
            kind: "DrillReport".into(),
            drill: drill.name.into(),
            title: drill.title.into(),
            hypothesis: drill.hypothesis.into(),
            steady_state: drill.steady.into(),
            fault: drill.fault.into(),
            seed: options.seed,
            net: options.net,
            planted: options.plant.clone().unwrap_or_default(),
            version: version(),
            ended_unix_ms: unix_ms(),
            seconds: took.as_secs_f64(),
            verdict: DrillVerdict::of(&findings),
            findings,
            requests: evidence.ops.len(),
            acked_writes: evidence.findings.acked_writes,
            tenants: tenants(&evidence, parts),
            cells: (0..drill.stage.cells.len()).map(|cell| cell_row(&evidence, cell, parts)).collect(),
            buckets: buckets(&evidence.ops, parts),
            faults: evidence.faults,
            marks: evidence.marks,
            moves: evidence.moves,
            commands: evidence.commands,
            samples: evidence.samples,
            parts,
        }
    }

    /// The command that runs it again.
    #[must_use]
    pub fn reproduction(&self) -> String {
        let planted = if self.planted.is_empty() { String::new() } else { format!(" --plant {}", self.planted) };
        format!("cellctl drill run {} --seed {} --net {}{planted}", self.drill, self.seed, self.net.as_str())
    }

    /// This report with the verdict that its findings come to: a file may say what it likes.
    ///
    /// # Errors
    /// Where there are no findings: then there is no verdict either.
    pub fn judged_anew(mut self) -> Result<Self, String> {
        if self.findings.is_empty() {
            return Err("it has no findings".into());
        }
        self.verdict = DrillVerdict::of(&self.findings);
        Ok(self)
    }

    /// What did not hold.
    pub fn broken(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.held)
    }

    /// One test suite of JUnit, one case for each finding.
    #[must_use]
    pub fn junit(&self) -> String {
        let mut cases = String::new();
        for finding in &self.findings {
            let ids: String = finding.invariants.iter().map(|id| format!("{id} ")).collect();
            let (name, observed) = (escaped(&format!("{ids}{}", finding.statement)), escaped(&finding.observed));
            let class = escaped(&self.drill);
            // Writing to a string cannot fail.
            let _ = write!(cases, "  <testcase classname=\"drill.{class}\" name=\"{name}\">");
            if !finding.held {
                let kind = if finding.exercise { "not exercised" } else { "fail" };
                let _ = write!(cases, "<failure type=\"{kind}\" message=\"{observed}\"/>");
            }
            cases.push_str("</testcase>\n");
        }
        let (tests, failures) = (self.findings.len(), self.broken().count());
        format!(
            "<testsuite name=\"drill.{}\" tests=\"{tests}\" failures=\"{failures}\" time=\"{:.3}\">\n\
             \x20 <properties><property name=\"seed\" value=\"{}\"/><property name=\"net\" value=\"{}\"/></properties>\n\
             {cases}</testsuite>\n",
            escaped(&self.drill),
            self.seconds,
            self.seed,
            self.net.as_str()
        )
    }
}

fn version() -> String {
    let package = env!("CARGO_PKG_VERSION");
    match option_env!("CELLWAY_COMMIT").filter(|commit| !commit.is_empty()) {
        Some(commit) => format!("{package} ({commit})"),
        None => package.into(),
    }
}

/// Text between tags or quotes of XML and HTML.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
}

/// Counted before, during and after the fault.
fn tallies<'a>(ops: impl Iterator<Item = &'a Op> + Clone, parts: Parts) -> (Tally, Tally, Tally) {
    let within = |(from, to): (Micros, Micros)| {
        Tally::of(ops.clone().filter(move |op| from <= op.invoked && op.invoked < to))
    };
    let steady = Tally::of(ops.clone().filter(|op| is_steady(op, parts.steady)));
    (steady, within(parts.fault), within((parts.fault.1, parts.end)))
}

fn tenants(evidence: &Evidence, parts: Parts) -> Vec<TenantRow> {
    let row = |home: &super::evidence::Home| {
        let of_tenant = || evidence.ops.iter().filter(|op| op.tenant == home.name);
        let (steady, fault, after) = tallies(of_tenant(), parts);
        let worst = of_tenant().filter(|op| op.invoked >= parts.steady.0).map(Op::latency).max().unwrap_or(0);
        let (name, cell) = (home.name.to_string(), home.cell + 1);
        TenantRow { name, cell, steady, fault, after, worst_ms: worst / 1_000 }
    };
    evidence.homes.iter().map(row).collect()
}

fn cell_row(evidence: &Evidence, cell: usize, parts: Parts) -> CellRow {
    let names: std::collections::BTreeSet<_> =
        evidence.members(Group::On(cell)).into_iter().map(|home| &home.name).collect();
    let of_cell = evidence.ops.iter().filter(|op| names.contains(&op.tenant));
    let (steady, fault, after) = tallies(of_cell, parts);
    CellRow { cell: cell + 1, steady, fault, after }
}

fn buckets(ops: &[Op], parts: Parts) -> Vec<Bucket> {
    let begin = parts.steady.0;
    // What is left of the last one would look like a loss.
    let count = usize::try_from(parts.end.saturating_sub(begin) / BUCKET).unwrap_or(0);
    let mut sorted: Vec<(Bucket, Vec<Micros>)> = (0..count as u64)
        .map(|index| (Bucket { at: begin + index * BUCKET, ..Bucket::default() }, Vec::new()))
        .collect();
    for op in ops.iter().filter(|op| op.invoked >= begin) {
        // Failures where they were felt, answers where they were asked for.
        let index = usize::try_from((op.invoked - begin) / BUCKET).unwrap_or(usize::MAX);
        let Some((bucket, latencies)) = sorted.get_mut(index) else { continue };
        if op.failed {
            bucket.failed += 1;
        } else if op.is_done() {
            bucket.done += 1;
            latencies.push(op.latency());
        } else {
            bucket.refused += 1;
        }
    }
    let spread = |(bucket, latencies): (Bucket, Vec<Micros>)| {
        let spread = Spread::of_micros(latencies);
        Bucket { p50_ms: spread.p50, p99_ms: spread.p99, ..bucket }
    };
    sorted.into_iter().map(spread).collect()
}

/// A drill that was to run and of which there is no report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotRun {
    /// Which.
    pub drill: String,
    /// It has begun, and has come to no verdict; else it was left out.
    pub began: bool,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
}

impl NotRun {
    /// Now.
    #[must_use]
    pub fn new(drill: &str, began: bool, reason: String) -> Self {
        Self { drill: drill.into(), began, reason, unix_ms: unix_ms() }
    }

    /// As people read it, where a report has its verdict.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        if self.began { "no verdict" } else { "skipped" }
    }

    fn junit(&self) -> String {
        let (drill, reason) = (escaped(&self.drill), escaped(&self.reason));
        let (skipped, errors, word) = if self.began { (0, 1, "error") } else { (1, 0, "skipped") };
        format!(
            "<testsuite name=\"drill.{drill}\" tests=\"1\" failures=\"0\" errors=\"{errors}\" skipped=\"{skipped}\">\n\
             \x20 <testcase classname=\"drill.{drill}\" name=\"the drill has a verdict\"><{word} message=\"{reason}\"/></testcase>\n\
             </testsuite>\n"
        )
    }
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// All suites of one directory in one file.
#[must_use]
pub fn junit_of_all(reports: &[DrillReport], not_run: &[NotRun]) -> String {
    let suites = reports.iter().map(DrillReport::junit).chain(not_run.iter().map(NotRun::junit));
    let suites: String = suites.collect();
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"drills\">\n{suites}</testsuites>\n")
}
