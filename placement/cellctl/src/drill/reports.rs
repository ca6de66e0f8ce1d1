//! Reports of drills on disk: a page, JSON and JUnit for each, and the same over all of a directory.
//!
//! ```text
//! DIR/DRILL.{html,json,junit.xml}   one drill
//! DIR/{index.html,junit.xml}        all of them, also those that have no report
//! DIR/not-run.json                  those, for whoever makes the pages anew
//! DIR/round-N/…                     the same for each round of several
//! ```

use std::path::{Path, PathBuf};

use anyhow::Context;
use cell_chaos::drill::report::{DrillReport, NotRun, junit_of_all};
use cell_chaos::drill::verdict::DrillVerdict;
use cell_chaos::drill::{catalogue, page};

use crate::cli::Output;
use crate::console;
use crate::failure::{Exit, Failure};

const NOT_RUN: &str = "not-run.json";

/// What is known of the drills of one round.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) reports: Vec<DrillReport>,
    /// Those that were to run and have no report.
    pub(super) not_run: Vec<NotRun>,
}

/// Where the reports of a round go, counted from 1, where there are several.
pub(super) fn round_name(number: usize) -> String {
    format!("round-{number}")
}

/// Makes the directory and sees that something can be written there.
pub(super) fn try_directory(out: &Path) -> Result<(), Failure> {
    let tried = std::fs::create_dir_all(out).and_then(|()| tempfile::tempfile_in(out));
    let tried = tried.with_context(|| format!("reports cannot be written to {}", out.display()));
    tried.map(drop).map_err(|error| Failure::local("REPORT", &error, "choose another --out"))
}

/// Writes what one drill has shown.
pub(super) fn write(out: &Path, report: &DrillReport) -> Result<(), Failure> {
    let suite = junit_of_all(std::slice::from_ref(report), &[]);
    write_file(&out.join(format!("{}.json", report.drill)), &json(report))?;
    write_file(&out.join(format!("{}.junit.xml", report.drill)), &suite)?;
    write_page(out, report)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("a report is made of text and numbers") + "\n"
}

fn write_page(out: &Path, report: &DrillReport) -> Result<(), Failure> {
    write_file(&out.join(format!("{}.html", report.drill)), &page::of(report))
}

fn write_file(file: &Path, text: &str) -> Result<(), Failure> {
    let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| std::fs::write(file, text))
        .with_context(|| format!("cannot write {}", file.display()))
        .map_err(|error| Failure::local("REPORT", &error, "choose another --out"))
}

/// Reads a report. What it says of its verdict counts for nothing: its findings do.
pub(super) fn read(file: &Path) -> Result<DrillReport, Failure> {
    let report: DrillReport = parse(file)?;
    if report.kind != "DrillReport" {
        return Err(no_report(file, &format!("it is a {:?}", report.kind)));
    }
    let said = report.verdict;
    let report = report.judged_anew().map_err(|reason| no_report(file, &reason))?;
    if said != report.verdict {
        let (said, found) = (said.as_str(), report.verdict.as_str());
        console::note(&format!("{} says {said}, but its findings come to: {found}", file.display()));
    }
    Ok(report)
}

fn parse<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| no_report(file, &error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| no_report(file, &error.to_string()))
}

fn no_report(file: &Path, reason: &str) -> Failure {
    let message = format!("{} is no report of a drill: {reason}", file.display());
    Failure::new("DRILL_REPORT", message, "name a DRILL.json that `cellctl drill run` has written")
}

/// What a directory holds, in the order of the catalogue. Of a drill that has a report and has not run since, the latter
/// counts.
fn read_all(directory: &Path) -> Result<Told, Failure> {
    let file = directory.join(NOT_RUN);
    let mut not_run: Vec<NotRun> = if file.exists() { parse(&file)? } else { Vec::new() };
    let mut reports = Vec::new();
    for drill in catalogue::all() {
        let file = directory.join(format!("{}.json", drill.name));
        if !file.exists() {
            continue;
        }
        let report = read(&file)?;
        let is_older = |one: &NotRun| one.drill == drill.name && one.unix_ms < report.ended_unix_ms;
        not_run.retain(|one| !is_older(one));
        if !not_run.iter().any(|one| one.drill == drill.name) {
            reports.push(report);
        }
    }
    if reports.is_empty() {
        let message = format!("there is no report in {}", directory.display());
        return Err(Failure::new("DRILL_REPORT", message, "`cellctl drill run --all --out DIR` writes them"));
    }
    Ok(Told { reports, not_run })
}

/// Writes the page over all. `alone`: what lies there from earlier runs, of other seeds, wires and versions, is no part of it.
pub(super) fn summarize(directory: &Path, told: &Told, alone: bool) -> Result<(), Failure> {
    let file = directory.join(NOT_RUN);
    if told.not_run.is_empty() && alone && file.exists() {
        let removed = std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()));
        removed.map_err(|error| Failure::local("REPORT", &error, "choose another --out"))?;
    }
    if !told.not_run.is_empty() {
        write_file(&file, &json(&told.not_run))?;
    }
    let read = if alone || told.reports.is_empty() { None } else { Some(read_all(directory)?) };
    write_summary(directory, read.as_ref().unwrap_or(told))
}

fn write_summary(directory: &Path, told: &Told) -> Result<(), Failure> {
    write_file(&directory.join("index.html"), &page::summary(&told.reports, &told.not_run))?;
    write_file(&directory.join("junit.xml"), &junit_of_all(&told.reports, &told.not_run))
}

/// `drill report`: makes all pages of a directory, or of each of its rounds, anew.
pub(super) fn anew(output: Output, directory: &Path) -> Result<Exit, Failure> {
    let rounds = (1..).map(|number| directory.join(round_name(number))).take_while(|round| round.is_dir());
    let rounds: Vec<PathBuf> = rounds.collect();
    let has_reports = catalogue::all().iter().any(|drill| directory.join(format!("{}.json", drill.name)).exists());
    let places = if rounds.is_empty() || has_reports { vec![directory.to_owned()] } else { rounds };
    let mut told = Vec::new();
    for place in places {
        let all = read_all(&place)?;
        all.reports.iter().try_for_each(|report| write_page(&place, report))?;
        write_summary(&place, &all)?;
        told.push((place, all));
    }
    Ok(verdicts(output, &told))
}

/// Says how one drill has come out.
pub(super) fn tell_verdict(report: &DrillReport, out: &Path) {
    let color = if report.verdict == DrillVerdict::Pass { "1;32" } else { "1;31" };
    let word = report.verdict.as_str().to_uppercase();
    for finding in report.broken() {
        let sign = if finding.exercise { "?" } else { "✗" };
        console::note(&format!("  {sign} {}\n      seen: {}", finding.statement, finding.observed));
    }
    let verdict = format!("verdict: {word}  {} (seed {}, {:.0} s)", report.drill, report.seed, report.seconds);
    console::note(&console::paint(&verdict, color));
    console::note(&format!("  report: {}", out.join(format!("{}.html", report.drill)).display()));
}

/// Prints all verdicts, and answers how the command ends.
pub(super) fn verdicts(output: Output, told: &[(PathBuf, Told)]) -> Exit {
    let rows = || told.iter().flat_map(|(place, told)| told.reports.iter().map(move |report| (place, report)));
    let others = || told.iter().flat_map(|(_, told)| &told.not_run);
    match output {
        Output::Json => {
            let rows = rows().map(|(place, report)| as_json(place, report));
            let others = others().map(
                |one| serde_json::json!({ "drill": one.drill, "verdict": one.as_str(), "reason": one.reason }),
            );
            let all: Vec<_> = rows.chain(others).collect();
            console::data(&format!("{:#}\n", serde_json::Value::from(all)));
        }
        Output::Name => rows().for_each(|(_, report)| console::data(&format!("{}\n", report.drill))),
        Output::Table | Output::Html => {
            rows().for_each(|(_, report)| console::data(&row(report)));
            for one in others() {
                console::data(&format!("{:<22}{:<15}{}\n", one.drill, one.as_str(), one.reason));
            }
        }
    }
    let passed = rows().all(|(_, report)| report.verdict == DrillVerdict::Pass);
    if passed && !others().any(|one| one.began) { Exit::Done } else { Exit::Failed }
}

fn held(report: &DrillReport) -> usize {
    report.findings.iter().filter(|one| one.held).count()
}

fn row(report: &DrillReport) -> String {
    let (word, held, all) = (report.verdict.as_str(), held(report), report.findings.len());
    format!(
        "{:<22}{word:<15}{held:>2} of {all:<4}{:>6.1} s  {}\n",
        report.drill,
        report.seconds,
        report.reproduction()
    )
}

fn as_json(place: &Path, report: &DrillReport) -> serde_json::Value {
    let broken: Vec<_> = report.broken().collect();
    serde_json::json!({
        "drill": report.drill,
        "verdict": report.verdict.as_str(),
        "seed": report.seed,
        "net": report.net,
        "held": held(report),
        "findings": report.findings.len(),
        "broken": broken,
        "seconds": report.seconds,
        "report": place.join(format!("{}.json", report.drill)),
        "reproduce": report.reproduction(),
    })
}
