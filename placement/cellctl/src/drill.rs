//! `drill`: runs [`cell_chaos::drill`]s one after the other, writes their reports, says the verdicts.

#[cfg(feature = "planted")]
mod planted;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use cell_chaos::drill::engine::{RunOptions, Tell, Told, run as run_drill, run_name};
use cell_chaos::drill::leftovers;
use cell_chaos::drill::report::{DrillReport, junit_of_all};
use cell_chaos::drill::verdict::DrillVerdict;
use cell_chaos::drill::{Drill as Experiment, Needs, catalogue, page};
use cell_chaos::wiring::{Net, spaces};
use tokio_util::sync::CancellationToken;

use crate::cli::{Drill, Output, RunDrills, Wires};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::host::{end_on_signal, log_to_stderr};

pub(crate) async fn run(output: Output, said: Drill) -> Result<Exit, Failure> {
    match said {
        Drill::List => list(output),
        Drill::Run(said) => {
            let drills = if said.all { catalogue::all() } else { chosen(&said.names)? };
            let plant = plant(&said);
            let wanted = Wanted { seed: said.seed, out: said.out, retain: said.retain, plant, all: said.all };
            run_all(drills, said.net, &wanted).await
        }
        Drill::Replay { file, out, retain } => {
            let report = read(&file)?;
            let drills = chosen(std::slice::from_ref(&report.drill))?;
            let net = if report.net == Net::Namespaces { Wires::Namespaces } else { Wires::Proxy };
            let plant = (!report.planted.is_empty()).then_some(report.planted);
            run_all(drills, net, &Wanted { seed: report.seed, out, retain, plant, all: false }).await
        }
        Drill::Report { directory } => {
            let reports = read_all(&directory)?;
            reports.iter().try_for_each(|report| write_page(&directory, report))?;
            summarize(&directory, &reports)?;
            Ok(verdicts(&reports, &[]))
        }
        Drill::Sim(arguments) => simulate(arguments).await,
        #[cfg(feature = "planted")]
        Drill::Planted { list: true, .. } => Ok(planted::list()),
        #[cfg(feature = "planted")]
        Drill::Planted { names, list: false } => planted::run(&names).await,
        Drill::Clean => clean().await,
    }
}

/// Runs seeds of the simulation, each in a process of its own.
async fn simulate(arguments: cell_sim::Arguments) -> Result<Exit, Failure> {
    if std::env::var_os("CELLCTL_LOG").is_some() {
        log_to_stderr();
    }
    let program = cell_sim::Program {
        path: this_program()?,
        words: ["drill", "sim"].map(str::to_owned).into(),
        typed: "cellctl drill sim".into(),
    };
    let passed = cell_sim::simulate(arguments, program, |said| match said {
        cell_sim::Said::Result(text) => console::data(&text),
        cell_sim::Said::Progress(line) => console::note(&line),
    });
    let passed = passed.await.map_err(|error| {
        Failure::local("SIMULATION", &error.into(), "look at the limits of this machine (processes, threads)")
    })?;
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

fn this_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe().context("cannot find this program itself");
    program.map_err(|error| Failure::local("PROGRAM", &error, ""))
}

/// How drills are to be run.
struct Wanted {
    seed: u64,
    out: PathBuf,
    retain: Option<PathBuf>,
    plant: Option<String>,
    all: bool,
}

#[cfg(feature = "planted")]
fn plant(said: &RunDrills) -> Option<String> {
    use clap::ValueEnum;
    Some(said.plant?.to_possible_value()?.get_name().to_owned())
}

#[cfg(not(feature = "planted"))]
const fn plant(_said: &RunDrills) -> Option<String> {
    None
}

fn chosen(names: &[String]) -> Result<Vec<Experiment>, Failure> {
    let find = |name: &String| {
        catalogue::find(name).ok_or_else(|| {
            let known: Vec<&str> = catalogue::all().iter().map(|drill| drill.name).collect();
            let nearest = known.iter().find(|known| known.contains(name.as_str()) || name.contains(**known));
            let hint = nearest.map_or_else(
                || "`cellctl drill list` lists them".to_owned(),
                |nearest| format!("did you mean {nearest}? `cellctl drill list` lists them"),
            );
            Failure {
                exit: Exit::Usage,
                ..Failure::new("DRILL_UNKNOWN", format!("there is no drill {name:?}"), hint)
            }
        })
    };
    names.iter().map(find).collect()
}

fn list(output: Output) -> Result<Exit, Failure> {
    let drills = catalogue::all();
    match output {
        Output::Json => {
            let one = |drill: &Experiment| {
                serde_json::json!({
                    "name": drill.name,
                    "title": drill.title,
                    "hypothesis": drill.hypothesis,
                    "steadyState": drill.steady,
                    "fault": drill.fault,
                    "needs": drill.needs.as_str(),
                })
            };
            let all: Vec<_> = drills.iter().map(one).collect();
            console::data(&format!("{:#}\n", serde_json::Value::from(all)));
        }
        Output::Name => drills.iter().for_each(|drill| console::data(&format!("{}\n", drill.name))),
        Output::Table | Output::Html => {
            for drill in &drills {
                let needs = match drill.needs {
                    Needs::Any | Needs::Proxy => String::new(),
                    Needs::Root | Needs::Tracer | Needs::Clock | Needs::TimeSpace => {
                        format!("  (needs {})", drill.needs.as_str())
                    }
                };
                console::data(&format!("{:<22}{}{needs}\n", drill.name, drill.title));
            }
        }
    }
    Ok(Exit::Done)
}

async fn run_all(drills: Vec<Experiment>, wires: Wires, wanted: &Wanted) -> Result<Exit, Failure> {
    if std::env::var_os("CELLCTL_LOG").is_some() {
        log_to_stderr();
    }
    let asked = wiring(wires).await?;
    sweep().await?;
    let program = this_program()?;
    let stop = CancellationToken::new();
    end_on_signal(stop.clone()).map_err(|error| Failure::local("SIGNALS", &error.into(), ""))?;
    let (mut reports, mut skipped, mut without_verdict) = (Vec::new(), Vec::new(), Vec::new());
    for drill in drills {
        let Some(net) = drill.needs.wiring(asked) else {
            if !wanted.all {
                let message = format!("drill {} needs network namespaces and mounts, and so root", drill.name);
                return Err(Failure::new("DRILL_NEEDS_ROOT", message, "run it as root, with --net namespaces"));
            }
            skipped.push((drill.name, "needs root".to_owned()));
            continue;
        };
        if let Some(missing) = drill.needs.missing().await {
            if !wanted.all {
                let message = format!("drill {} is not possible here: {missing}", drill.name);
                return Err(Failure::new("DRILL_NEEDS_TOOL", message, "install it, or run the other drills"));
            }
            skipped.push((drill.name, missing));
            continue;
        }
        let report = match one(&drill, net, wanted, program.clone(), stop.clone()).await {
            Ok(report) => report,
            // The others are run all the same: a night's drills must not end with the first that could not begin.
            Err(failure) if wanted.all && !stop.is_cancelled() => {
                console::note(&format!("no verdict: {}: {} ({})", drill.name, failure.message, failure.code));
                without_verdict.push((drill.name, failure.message));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        write(&wanted.out, &report)?;
        tell_verdict(&report, &wanted.out);
        reports.push(report);
    }
    // What lies there from earlier runs is of other seeds, wires and versions.
    let told = if wanted.all { &reports } else { &read_all(&wanted.out)? };
    summarize(&wanted.out, told)?;
    let verdict = verdicts(&reports, &skipped);
    for (name, reason) in &without_verdict {
        console::data(&format!("{name:<22}{:<15}{reason}\n", "no verdict"));
    }
    Ok(if without_verdict.is_empty() { verdict } else { Exit::Failed })
}

/// Which wiring there is to be.
async fn wiring(wires: Wires) -> Result<Net, Failure> {
    match wires {
        Wires::Proxy => Ok(Net::Proxy),
        Wires::Auto => Ok(if spaces::possible().await.is_ok() { Net::Namespaces } else { Net::Proxy }),
        Wires::Namespaces => match spaces::possible().await {
            Ok(()) => Ok(Net::Namespaces),
            Err(reason) => {
                let message = format!("there can be no network namespaces: {reason}");
                Err(Failure::new("DRILL_NEEDS_ROOT", message, "run it as root, or with --net proxy"))
            }
        },
    }
}

async fn one(
    drill: &Experiment,
    net: Net,
    wanted: &Wanted,
    program: PathBuf,
    stop: CancellationToken,
) -> Result<DrillReport, Failure> {
    let run = run_name();
    let temporary = tempfile::Builder::new().prefix(&format!("{run}-")).tempdir();
    let temporary = temporary.map_err(|error| Failure::local("TEMP_DIR", &error.into(), "set TMPDIR"))?;
    let directory = match &wanted.retain {
        Some(kept) => std::path::absolute(kept.join(drill.name)).unwrap_or_else(|_| kept.join(drill.name)),
        None => temporary.path().to_owned(),
    };
    let fresh = wanted.retain.is_none() || std::fs::read_dir(&directory).is_err();
    if !fresh {
        let message = format!("{} is there already, and a drill starts from nothing", directory.display());
        return Err(Failure::usage(message, "name another directory with --retain, or remove this one"));
    }
    let options = RunOptions { seed: wanted.seed, net, program, directory, run, plant: wanted.plant.clone() };
    run_drill(drill, &options, tell(), stop).await.map_err(|error| {
        let hint = match &wanted.retain {
            Some(kept) => format!("the logs are in {}", kept.join(drill.name).join("logs").display()),
            None => "run it again with --retain DIR to keep the logs".into(),
        };
        Failure::local("DRILL", &error.into(), hint)
    })
}

fn tell() -> Tell {
    let began = Instant::now();
    Arc::new(move |told| {
        let at = began.elapsed().as_secs_f64();
        console::note(&match told {
            Told::Part(part) => format!("{at:>6.1} s  {}", console::paint(&part, "1")),
            Told::Act(act) if act.starts_with('⚡') => format!("{at:>6.1} s    {}", console::paint(&act, "33")),
            Told::Act(act) => format!("{at:>6.1} s    {act}"),
        });
    })
}

fn write(out: &Path, report: &DrillReport) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(report).expect("a report is made of text and numbers") + "\n";
    let suite = junit_of_all(std::slice::from_ref(report));
    write_file(&out.join(format!("{}.json", report.drill)), &json)?;
    write_file(&out.join(format!("{}.junit.xml", report.drill)), &suite)?;
    write_page(out, report)
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

fn read(file: &Path) -> Result<DrillReport, Failure> {
    let bad = |reason: String| {
        let message = format!("{} is no report of a drill: {reason}", file.display());
        Failure::new("DRILL_REPORT", message, "name a DRILL.json that `cellctl drill run` has written")
    };
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let report: DrillReport = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if report.kind == "DrillReport" { Ok(report) } else { Err(bad(format!("it is a {:?}", report.kind))) }
}

/// The reports of a directory, in the order of the catalogue.
fn read_all(directory: &Path) -> Result<Vec<DrillReport>, Failure> {
    let mut reports = Vec::new();
    for drill in catalogue::all() {
        let file = directory.join(format!("{}.json", drill.name));
        if file.exists() {
            reports.push(read(&file)?);
        }
    }
    if reports.is_empty() {
        let message = format!("there is no report in {}", directory.display());
        return Err(Failure::new("DRILL_REPORT", message, "`cellctl drill run --all --out DIR` writes them"));
    }
    Ok(reports)
}

fn summarize(directory: &Path, reports: &[DrillReport]) -> Result<(), Failure> {
    write_file(&directory.join("index.html"), &page::summary(reports))?;
    write_file(&directory.join("junit.xml"), &junit_of_all(reports))
}

fn tell_verdict(report: &DrillReport, out: &Path) {
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

/// The table of all, and how the command ends.
fn verdicts(reports: &[DrillReport], skipped: &[(&str, String)]) -> Exit {
    for report in reports {
        let (held, all) = (report.findings.iter().filter(|one| one.held).count(), report.findings.len());
        let word = report.verdict.as_str();
        let line = format!(
            "{:<22}{word:<15}{held:>2} of {all:<4}{:>6.1} s  {}\n",
            report.drill,
            report.seconds,
            report.reproduction()
        );
        console::data(&line);
    }
    for (name, why) in skipped {
        console::data(&format!("{name:<22}{:<15}{why}\n", "skipped"));
    }
    let passed = reports.iter().all(|report| report.verdict == DrillVerdict::Pass);
    if passed { Exit::Done } else { Exit::Failed }
}

/// Takes away what dead runs have left, before a new one begins.
async fn sweep() -> Result<(), Failure> {
    for left in leftovers::find() {
        let hint = "run `cellctl drill clean` as the user whose run it was";
        leftovers::remove(&left).await.map_err(|reason| {
            Failure::new("DRILL_LEFTOVER", format!("{left} of a dead run cannot be removed: {reason}"), hint)
        })?;
        console::note(&format!("removed {left}, which a dead run had left"));
    }
    Ok(())
}

async fn clean() -> Result<Exit, Failure> {
    let left = leftovers::find().len();
    sweep().await?;
    if left == 0 {
        console::note("dead runs have left nothing");
    }
    Ok(Exit::Done)
}
