//! `drill`: runs [`cell_chaos::drill`]s one after the other, writes their reports, says the verdicts.

#[cfg(feature = "planted")]
mod planted;
mod reports;
mod sweep;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use cell_chaos::drill::engine::{RunOptions, Tell, Told, run as run_drill, run_name};
use cell_chaos::drill::report::{DrillReport, NotRun};
use cell_chaos::drill::{Drill as Experiment, Needs, catalogue};
use cell_chaos::wiring::{Net, spaces};
use tokio_util::sync::CancellationToken;

use crate::cli::{Drill, Output, RunDrills, Wires};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::host::{end_on_signal, log_to_stderr};
use reports::Told as Reports;

pub(crate) async fn run(output: Output, said: Drill) -> Result<Exit, Failure> {
    match said {
        Drill::List => list(output),
        Drill::Run(said) => {
            let drills = if said.all { catalogue::all() } else { chosen(&said.names)? };
            let plant = plant(&said);
            let (seed, out, retain, rounds, all) = (said.seed, said.out, said.retain, said.rounds, said.all);
            run_all(drills, said.net, &Wanted { seed, out, retain, plant, all, rounds, output }).await
        }
        Drill::Replay { file, out, retain } => {
            let report = reports::read(&file)?;
            let drills = chosen(std::slice::from_ref(&report.drill))?;
            let net = if report.net == Net::Namespaces { Wires::Namespaces } else { Wires::Proxy };
            let plant = (!report.planted.is_empty()).then_some(report.planted);
            let wanted = Wanted { seed: report.seed, out, retain, plant, all: false, rounds: 1, output };
            run_all(drills, net, &wanted).await
        }
        Drill::Report { directory } => reports::anew(output, &directory),
        Drill::Sim(arguments) => simulate(arguments).await,
        #[cfg(feature = "planted")]
        Drill::Planted { list: true, .. } => Ok(planted::list()),
        #[cfg(feature = "planted")]
        Drill::Planted { names, list: false } => planted::run(&names).await,
        Drill::Clean => sweep::clean().await,
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
    // What runs seeds ends with what is dropped here.
    let passed = tokio::select! {
        passed = passed => passed,
        () = stopped()?.cancelled_owned() => {
            return Err(Failure::new("SIMULATION", "the simulation was stopped", "run the seeds that are missing"));
        }
    };
    let passed = passed.map_err(|error| match error {
        cell_sim::SeedsError::NoPlace { .. } => Failure::usage(error.to_string(), "plant one of those with --flaw"),
        error => {
            Failure::local("SIMULATION", &error.into(), "look at the limits of this machine (processes, threads)")
        }
    })?;
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

/// Somebody has asked this program to end, once that happens.
fn stopped() -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    end_on_signal(stop.clone()).map_err(|error| Failure::local("SIGNALS", &error.into(), ""))?;
    Ok(stop)
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
    rounds: u16,
    output: Output,
}

impl Wanted {
    /// The seed of each round, and where its reports and data go.
    fn rounds(&self) -> Vec<Round> {
        let round = |number: u16| {
            let seed = self.seed.wrapping_add(u64::from(number));
            if self.rounds == 1 {
                return Round { seed, out: self.out.clone(), retain: self.retain.clone() };
            }
            let of = |directory: &PathBuf| directory.join(reports::round_name(usize::from(number) + 1));
            Round { seed, out: of(&self.out), retain: self.retain.as_ref().map(of) }
        };
        (0..self.rounds).map(round).collect()
    }
}

/// Once through the chosen drills.
struct Round {
    seed: u64,
    out: PathBuf,
    retain: Option<PathBuf>,
}

impl Round {
    fn kept(&self, drill: &str) -> Option<PathBuf> {
        let kept = self.retain.as_ref()?.join(drill);
        Some(std::path::absolute(&kept).unwrap_or(kept))
    }
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
                    Needs::Root | Needs::Tracer | Needs::Clock | Needs::TimeSpace | Needs::Database => {
                        format!("  (needs {})", drill.needs.as_str())
                    }
                };
                console::data(&format!("{:<22}{}{needs}\n", drill.name, drill.title));
                console::data(&format!("{:<22}believed: {}\n", "", first_sentence(drill.hypothesis)));
            }
        }
    }
    Ok(Exit::Done)
}

/// What is believed, in short; the page and `-o json` have all of it.
fn first_sentence(text: &str) -> &str {
    text.split_inclusive(". ").next().unwrap_or(text).trim_end()
}

async fn run_all(drills: Vec<Experiment>, wires: Wires, wanted: &Wanted) -> Result<Exit, Failure> {
    if std::env::var_os("CELLCTL_LOG").is_some() {
        log_to_stderr();
    }
    // Before anything is made that has to be taken away again.
    let stop = stopped()?;
    let asked = wiring(wires).await?;
    sweep::before_a_run().await?;
    let rounds = wanted.rounds();
    let (ready, left_out) = ready(drills, asked, wanted, &rounds).await?;
    let program = this_program()?;
    let mut told = Vec::new();
    for round in &rounds {
        let mut seen = Reports { reports: Vec::new(), not_run: left_out.clone() };
        for (drill, net) in &ready {
            let report = match one(drill, *net, round, wanted, program.clone(), stop.clone()).await {
                Ok(report) => report,
                // The others are run all the same: a night's drills must not end with the first that could not begin.
                Err(failure) if (ready.len() > 1 || rounds.len() > 1) && !stop.is_cancelled() => {
                    console::note(&format!("no verdict: {}: {} ({})", drill.name, failure.message, failure.code));
                    seen.not_run.push(NotRun::new(drill.name, true, failure.message));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            reports::write(&round.out, &report)?;
            reports::tell_verdict(&report, &round.out);
            seen.reports.push(report);
        }
        reports::summarize(&round.out, &seen, wanted.all)?;
        told.push((round.out.clone(), seen));
    }
    Ok(reports::verdicts(wanted.output, &told))
}

/// The drills that are possible here, each with its wiring, and the others. Whoever has named one that is not possible is told
/// before the first begins.
async fn ready(
    drills: Vec<Experiment>,
    asked: Net,
    wanted: &Wanted,
    rounds: &[Round],
) -> Result<(Vec<(Experiment, Net)>, Vec<NotRun>), Failure> {
    let (mut ready, mut left_out) = (Vec::new(), Vec::new());
    for drill in drills {
        let net = drill.needs.wiring(asked);
        let missing = if net.is_some() { drill.needs.missing().await } else { None };
        match (net, missing) {
            (Some(net), None) => ready.push((drill, net)),
            (_, missing) if wanted.all => {
                left_out.push(NotRun::new(drill.name, false, missing.unwrap_or_else(|| "needs root".into())));
            }
            (None, _) => {
                let message = format!("drill {} needs network namespaces and mounts, and so root", drill.name);
                return Err(Failure::new("DRILL_NEEDS_ROOT", message, "run it as root, with --net namespaces"));
            }
            (Some(_), Some(missing)) => {
                let message = format!("drill {} is not possible here: {missing}", drill.name);
                return Err(Failure::new("DRILL_NEEDS_TOOL", message, "install it, or run the other drills"));
            }
        }
    }
    for round in rounds {
        let kept = ready.iter().filter_map(|(drill, _)| round.kept(drill.name));
        if let Some(taken) = kept.into_iter().find(|kept| kept.exists()) {
            let message = format!("{} is there already, and a drill starts from nothing", taken.display());
            return Err(Failure::usage(message, "name another directory with --retain, or remove this one"));
        }
        reports::try_directory(&round.out)?;
    }
    Ok((ready, left_out))
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
    round: &Round,
    wanted: &Wanted,
    program: PathBuf,
    stop: CancellationToken,
) -> Result<DrillReport, Failure> {
    let run = run_name();
    let temporary = tempfile::Builder::new().prefix(&format!("{run}-")).tempdir();
    let temporary = temporary.map_err(|error| Failure::local("TEMP_DIR", &error.into(), "set TMPDIR"))?;
    let kept = round.kept(drill.name);
    let directory = kept.clone().unwrap_or_else(|| temporary.path().to_owned());
    let options = RunOptions { seed: round.seed, net, program, directory, run, plant: wanted.plant.clone() };
    run_drill(drill, &options, tell(), stop).await.map_err(|error| {
        let hint = match kept {
            Some(kept) => format!("the logs are in {}", kept.join("logs").display()),
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
