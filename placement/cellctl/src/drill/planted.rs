//! `drill planted`: plants faults, one after the other, each in the cheapest layer that must catch it, and says what did.
//!
//! ```text
//! model         a guard is switched off: the checker must find a counterexample
//! simulation    disks lie or fail, a client is careless, a cell is there twice, or store and cells have a fault: the oracle must
//!               find it
//! demo, drill   real cells with a fault in them: the judge of what clients saw must find it
//! ```

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use cell_models::Guard;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{stopped, this_program};
use crate::console;
use crate::failure::{Exit, Failure};

/// So many seeds are simulated until a fault is found. The rarest, a cutover without a drain, is found in one of four.
const SEEDS_MAX: u64 = 32;
/// Of a drill.
const DRILLS_MAX: u64 = 3;
/// A program that was told to end takes away what it has made; after this long it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Where a fault is planted, and who must catch it.
#[derive(Debug, Clone, Copy)]
enum Layer {
    /// A guard, as the models know it.
    Model(Guard),
    /// A fault of the simulation's harness, as `drill sim` is told of it.
    Simulation(&'static str),
    /// A fault of the cells, in the demo.
    Demo,
    /// A fault of the cells, in this drill.
    Drill(&'static str),
}

/// One fault.
struct Fault {
    name: String,
    what: &'static str,
    layer: Layer,
}

/// Faults of real processes, and of the simulation.
const OUTSIDE: [(&str, &str, Layer); 20] = [
    ("stale-epoch", "the check of the epoch is skipped", Layer::Drill("router-alone")),
    ("early-serve", "the target serves before the commit", Layer::Demo),
    ("lost-write", "a write is acknowledged and not done", Layer::Demo),
    ("unflushed-write", "writes are acknowledged before they are flushed", Layer::Drill("dead-cell")),
    ("dropped-tombstone", "a deletion is not applied by the copying cell", Layer::Drill("stale-router")),
    ("change-twice", "a change is delivered twice", Layer::Drill("stale-router")),
    (
        "undrained-cutover",
        "the source cuts over without waiting for writes that are under way",
        Layer::Simulation("--fleet --faults 6 --flaw undrained-cutover"),
    ),
    (
        "reused-uid",
        "a name that is made again gets the uid that it had",
        Layer::Simulation("--fleet --faults 1 --flaw reused-uid"),
    ),
    (
        "ignored-term",
        "a cell does the steps of a leader that is gone",
        Layer::Simulation("--fleet --faults 1 --flaw ignored-term"),
    ),
    (
        "lapsing-fence",
        "a fence is released on a time-out",
        Layer::Simulation("--fleet --faults 6 --flaw lapsing-fence"),
    ),
    (
        "lying-disk",
        "disks say that they have synced, and have not",
        Layer::Simulation("--faults 8 --flaw lying-disk"),
    ),
    (
        "failing-disk",
        "syncs of disks fail, and nobody is told",
        Layer::Simulation("--faults 8 --flaw failing-disk"),
    ),
    ("dark-node", "a node stays away when all is healed", Layer::Simulation("--faults 1 --flaw dark-node")),
    (
        "cloned-cell",
        "a cell starts from an image of its disk, as an owner of what has left it",
        Layer::Simulation("--fleet --faults 1 --flaw cloned-cell"),
    ),
    (
        "losing-cell-disk",
        "disks of cells drop documents",
        Layer::Simulation("--fleet --faults 1 --flaw losing-disk"),
    ),
    (
        "lying-cell-disk",
        "disks of cells say it, and have not",
        Layer::Simulation("--fleet --faults 8 --flaw lying-disk"),
    ),
    (
        "misrecording-client",
        "a client writes down another answer",
        Layer::Simulation("--faults 4 --flaw misrecording-client"),
    ),
    ("careless-retry", "a retry has another request id", Layer::Simulation("--faults 4 --flaw careless-retry")),
    ("skipping-watcher", "a watcher drops a revision", Layer::Simulation("--faults 4 --flaw skipping-watcher")),
    (
        "idle-clients",
        "nobody writes when all is healed",
        Layer::Simulation("--fleet --faults 1 --flaw idle-clients"),
    ),
];

fn all() -> Vec<Fault> {
    let guards = Guard::all().map(|guard| Fault {
        name: guard.name().to_owned(),
        what: "a guard is switched off",
        layer: Layer::Model(guard),
    });
    let outside = OUTSIDE.into_iter().map(|(name, what, layer)| Fault { name: name.to_owned(), what, layer });
    guards.chain(outside).collect()
}

impl Layer {
    fn word(self) -> String {
        match self {
            Self::Model(_) => "model".into(),
            Self::Simulation(_) => "simulation".into(),
            Self::Demo => "demo".into(),
            Self::Drill(drill) => format!("drill {drill}"),
        }
    }
}

/// Lists the faults.
pub(super) fn list() -> Exit {
    for fault in all() {
        console::data(&format!("{:<26}{:<26}{}\n", fault.name, fault.layer.word(), fault.what));
    }
    Exit::Done
}

/// Plants the named faults, or all of them.
pub(super) async fn run(names: &[String]) -> Result<Exit, Failure> {
    let known = all();
    if let Some(other) = names.iter().find(|name| !known.iter().any(|fault| fault.name == **name)) {
        let message = format!("there is no fault {other:?} to plant");
        return Err(Failure::usage(message, "`cellctl drill planted --list` lists them"));
    }
    let chosen = known.into_iter().filter(|fault| names.is_empty() || names.contains(&fault.name));
    let stop = stopped()?;
    let (mut caught, mut planted) = (0, 0);
    for fault in chosen {
        let began = Instant::now();
        let seen = plant(&fault, &stop).await;
        if stop.is_cancelled() {
            let hint = "`cellctl drill planted NAME...` plants those that are missing";
            return Err(Failure::new("DRILL", format!("it was stopped at {}", fault.name), hint));
        }
        let seen = seen.map_err(|error| Failure::local("DRILL", &error, "run it again"))?;
        let seconds = began.elapsed().as_secs_f64();
        planted += 1;
        caught += usize::from(seen.is_some());
        let (word, how) = match &seen {
            Some(how) => ("caught in", how.as_str()),
            None => ("NOT CAUGHT in", "nothing was found"),
        };
        let layer = fault.layer.word();
        console::data(&format!("{:<26}{word} {layer}: {how} ({seconds:.1} s)\n", fault.name));
    }
    console::data(&format!("{caught} of {planted} planted faults are caught\n"));
    Ok(if caught == planted { Exit::Done } else { Exit::Failed })
}

/// What has found the fault, if anything has.
async fn plant(fault: &Fault, stop: &CancellationToken) -> anyhow::Result<Option<String>> {
    let directory = tempfile::tempdir().context("cannot make a directory for reports")?;
    let at = directory.path();
    match fault.layer {
        Layer::Model(guard) => {
            let (done, verdict) = oneshot::channel();
            // Not one of the runtime's threads: nobody waits for it when this program is told to end.
            std::thread::spawn(move || done.send(guard.check_without(1)));
            let verdict = stop.run_until_cancelled(verdict).await.context("it was stopped")?;
            let verdict = verdict.context("the model checker has failed")?;
            let shortest = verdict.broken.into_iter().min_by_key(|(_, path)| path.len());
            Ok(shortest.map(|(promise, path)| format!("{promise}, after {} steps", path.len())))
        }
        Layer::Simulation(words) => {
            // In which seed it matters changes with the code.
            for seed in 1..=SEEDS_MAX {
                let (code, out) = call(stop, &format!("drill sim --seed {seed} {words}"), &[]).await?;
                if code == Some(1) {
                    return Ok(out.lines().nth(1).map(|line| format!("{} (seed {seed})", line.trim())));
                }
            }
            Ok(None)
        }
        Layer::Demo => {
            let line = "demo --seed 7 --tenants 24 --moves 6 --big 8 --writes-per-second 60";
            let file = at.join("demo.json");
            let (code, _) =
                call(stop, line, &["--plant".as_ref(), fault.name.as_ref(), "--report".as_ref(), &file]).await?;
            demo_found(code, &report(&file)?)
        }
        Layer::Drill(drill) => {
            // A drill in which the fault met nobody says nothing; another seed is another experiment.
            for seed in 1..=DRILLS_MAX {
                let more: [&Path; 4] = ["--plant".as_ref(), fault.name.as_ref(), "--out".as_ref(), at];
                let (code, _) = call(stop, &format!("drill run {drill} --seed {seed}"), &more).await?;
                let report = report(&at.join(format!("{drill}.json")))?;
                if report["verdict"] != "not-exercised" {
                    return drill_found(code, &report);
                }
            }
            Ok(None)
        }
    }
}

/// Runs this program. Whoever ends the one ends the other, which has processes and namespaces of its own to take away.
async fn call(stop: &CancellationToken, line: &str, more: &[&Path]) -> anyhow::Result<(Option<i32>, String)> {
    let program = this_program().map_err(|failure| anyhow::anyhow!(failure.message))?;
    let mut command = Command::new(program);
    command.args(line.split(' ')).args(more).kill_on_drop(true).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("cannot run cellctl {line}"))?;
    let process = child.id().and_then(|number| Pid::from_raw(i32::try_from(number).ok()?));
    let mut output = std::pin::pin!(child.wait_with_output());
    let Some(output) = stop.run_until_cancelled(output.as_mut()).await else {
        if let Some(process) = process {
            // It may have ended by itself.
            let _gone = kill_process(process, Signal::TERM);
        }
        let _ended = timeout(ENDS_WITHIN, output).await;
        bail!("it was stopped");
    };
    let output = output.with_context(|| format!("cannot run cellctl {line}"))?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn report(file: &Path) -> anyhow::Result<Value> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("there is no report at {}", file.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Of what the demo has counted, what must be nothing in an honest run.
fn demo_found(code: Option<i32>, report: &Value) -> anyhow::Result<Option<String>> {
    const COUNTED: [&str; 6] = [
        "lost_writes",
        "duplicated_writes",
        "reordered_writes",
        "resurrected_deletes",
        "served_early",
        "verify_mismatches",
    ];
    ensure!(report["verdict"].is_string(), "the demo has no verdict");
    let found = COUNTED.iter().filter_map(|field| {
        let count = report[*field].as_u64().filter(|count| *count > 0)?;
        Some(format!("{count} {}", field.replace('_', " ")))
    });
    let found: Vec<String> = found.collect();
    Ok((code == Some(1) && !found.is_empty()).then(|| found.join(", ")))
}

/// The findings of a drill that did not hold. That the experiment did not take place catches nothing.
fn drill_found(code: Option<i32>, report: &Value) -> anyhow::Result<Option<String>> {
    let findings = report["findings"].as_array().context("the drill has no findings")?;
    let broken = findings.iter().filter(|one| one["held"] == false && one["exercise"] == false);
    let told = broken.filter_map(|one| {
        let (statement, observed) = (one["statement"].as_str()?, one["observed"].as_str()?);
        // The first example is enough.
        let observed = observed.split("; ").next().unwrap_or_default();
        Some(format!("not so: {statement} ({observed})"))
    });
    let told: Vec<String> = told.collect();
    Ok(told.first().filter(|_| code == Some(1)).map(|first| match told.len() - 1 {
        0 => first.clone(),
        more => format!("{first}, and {more} more"),
    }))
}
