//! Many seeds, each in a process of its own; and one seed, in this one.
//!
//! ```text
//! --seeds A..B ──► a process `--seed N` for each, so many at once ──► a line for each ──► how many failed, how fast
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::process::Command;

use crate::arguments::Arguments;
use crate::flaw::Flaw;
use crate::run::{Options, Verdict, run};

/// A run that takes longer has lost its way. Thirty simulated seconds take about one.
const RUN_MAX: Duration = Duration::from_secs(300);
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Simulated time by which speed is told.
const RUN_OF: f64 = 30.0;
/// A simulation's stack, as large as that of a process's first thread.
const STACK_BYTES: usize = 8 << 20;

/// The program that runs one seed in a process of its own.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What comes before the arguments.
    pub words: Vec<String>,
    /// How people type it, up to the arguments.
    pub typed: String,
}

/// What is said while seeds run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A result, with its line end.
    Result(String),
    /// How far it has come.
    Progress(String),
}

/// Why seeds could not be run. A seed that fails is no error.
#[derive(Debug, thiserror::Error)]
pub enum SeedsError {
    /// No thread for a seed.
    #[error("the simulation could not be given a thread")]
    Thread(#[source] std::io::Error),
    /// What is simulated has no such part.
    #[error("{within} has no place for the fault {flaw}: it knows {known}")]
    NoPlace {
        /// What was to be planted,
        flaw: Flaw,
        /// in what,
        within: &'static str,
        /// which knows these.
        known: String,
    },
    /// No process for a seed.
    #[error("seed {seed} could not be given a process")]
    Process {
        /// Which.
        seed: u64,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Runs what is asked for. Answers whether every seed has passed.
///
/// # Errors
/// [`SeedsError`]
pub async fn simulate(
    arguments: Arguments,
    program: Program,
    mut tell: impl FnMut(Said),
) -> Result<bool, SeedsError> {
    if let Some(flaw) = arguments.flaw {
        check_place(flaw, arguments.fleet)?;
    }
    match (arguments.seed, arguments.seeds.clone()) {
        (Some(seed), _) => here(seed, &arguments, &program, &mut tell).await,
        (None, Some(seeds)) => each(seeds, arguments, program, &mut tell).await,
        (None, None) => Ok(true),
    }
}

fn check_place(flaw: Flaw, fleet: bool) -> Result<(), SeedsError> {
    let (within, known) = if fleet { ("the fleet", Flaw::OF_FLEET) } else { ("the store", Flaw::OF_STORE) };
    if known.contains(&flaw) {
        return Ok(());
    }
    let known = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(SeedsError::NoPlace { flaw, within, known })
}

/// The line that runs a seed again.
fn again(seed: u64, arguments: &Arguments, program: &Program) -> String {
    format!("  again: {} {} --trace\n", program.typed, arguments.of_one(seed).join(" "))
}

/// On a thread of its own: a simulation is a runtime, and cannot run inside another one.
async fn here(
    seed: u64,
    arguments: &Arguments,
    program: &Program,
    tell: &mut impl FnMut(Said),
) -> Result<bool, SeedsError> {
    let options = Options {
        seed,
        faults: Duration::from_secs(arguments.faults),
        flaw: arguments.flaw,
        fleet: arguments.fleet,
    };
    let (sender, verdict) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("simulation".into()).stack_size(STACK_BYTES);
    let thread = thread.spawn(move || drop(sender.send(run(&options)))).map_err(SeedsError::Thread)?;
    let Ok(Verdict { violations, trace, trace_hash, figures }) = verdict.await else {
        // It has panicked, and said so on its way.
        drop(thread.join());
        let again = again(seed, arguments, program);
        tell(Said::Result(format!("seed {seed} FAILED: the run has panicked\n{again}")));
        return Ok(false);
    };
    let mut text = String::new();
    if arguments.trace {
        trace.iter().for_each(|line| text.extend([line, "\n"]));
    }
    let word = if violations.is_empty() { "passed" } else { "FAILED" };
    text += &format!("seed {seed} {word}: {figures}, trace {trace_hash}\n");
    violations.iter().for_each(|violation| text += &format!("  {violation}\n"));
    if !violations.is_empty() {
        text += &again(seed, arguments, program);
    }
    tell(Said::Result(text));
    Ok(violations.is_empty())
}

/// What came of a seed in a process of its own.
struct Ran {
    seed: u64,
    passed: bool,
    text: String,
    simulated: f64,
}

async fn each(
    seeds: std::ops::Range<u64>,
    arguments: Arguments,
    program: Program,
    tell: &mut impl FnMut(Said),
) -> Result<bool, SeedsError> {
    let (began, cpu_before) = (Instant::now(), cpu_of_children());
    let count = seeds.end - seeds.start;
    let jobs = usize::from(arguments.jobs);
    let (arguments, program) = (Arc::new(arguments), Arc::new(program));
    let runs = futures::stream::iter(seeds).map(|seed| one(seed, Arc::clone(&arguments), Arc::clone(&program)));
    let mut runs = runs.buffered(jobs);
    let (mut failed, mut done, mut simulated, mut told) = (Vec::new(), 0, 0.0, Instant::now());
    while let Some(ran) = runs.next().await {
        let Ran { seed, passed, text, simulated: seconds } = ran?;
        done += 1;
        simulated += seconds;
        if !passed {
            failed.push(seed);
        }
        if !passed || !arguments.only_failed {
            tell(Said::Result(text));
        }
        if told.elapsed() > TELL_EVERY {
            let left = began.elapsed().as_secs_f64() / f64::from(done) * (count as f64 - f64::from(done));
            let failures = failed.len();
            tell(Said::Progress(format!("{done} of {count} seeds, {failures} failed, {left:.0} s left")));
            told = Instant::now();
        }
    }
    tell(Said::Result(format!("{} of {count} seeds failed {failed:?}\n", failed.len())));
    let cpu = cpu_of_children().zip(cpu_before).map(|(now, before)| (now - before).max(0.0));
    tell(Said::Progress(speed(simulated, began.elapsed().as_secs_f64(), cpu)));
    Ok(failed.is_empty())
}

fn speed(simulated: f64, wall: f64, cpu: Option<f64>) -> String {
    let (runs, wall_runs) = (simulated / RUN_OF, simulated / RUN_OF / wall.max(0.001) * 60.0);
    let of_cpu = match cpu {
        Some(cpu) if cpu > 0.0 => format!(", {:.0} a CPU minute", runs / cpu * 60.0),
        Some(_) | None => String::new(),
    };
    format!("{simulated:.0} s simulated in {wall:.0} s: {wall_runs:.0} runs of thirty seconds a minute{of_cpu}")
}

async fn one(seed: u64, arguments: Arc<Arguments>, program: Arc<Program>) -> Result<Ran, SeedsError> {
    let (passed, mut text) = process(seed, &arguments, &program).await?;
    if arguments.twice && passed {
        let (_, second) = process(seed, &arguments, &program).await?;
        if second != text {
            text = format!("seed {seed} FAILED: it has left two traces\n  {text}  {second}");
            text += &again(seed, &arguments, &program);
            return Ok(Ran { seed, passed: false, text, simulated: 0.0 });
        }
    }
    let times = if arguments.twice { 2.0 } else { 1.0 };
    let simulated = simulated_of(&text).unwrap_or(0.0) * times;
    Ok(Ran { seed, passed, text, simulated })
}

/// Whether it has passed, and what it has printed.
async fn process(seed: u64, arguments: &Arguments, program: &Program) -> Result<(bool, String), SeedsError> {
    let mut command = Command::new(&program.path);
    command.args(&program.words).args(arguments.of_one(seed)).kill_on_drop(true);
    if arguments.trace {
        command.arg("--trace");
    }
    command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::inherit());
    let ended = |how: String| format!("seed {seed} FAILED: the run {how}\n{}", again(seed, arguments, program));
    match tokio::time::timeout(RUN_MAX, command.output()).await {
        Err(_) => Ok((false, ended(format!("has not ended within {} s", RUN_MAX.as_secs())))),
        Ok(Err(source)) => Err(SeedsError::Process { seed, source }),
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            match output.status.code() {
                Some(0) => Ok((true, text)),
                Some(1) => Ok((false, text)),
                Some(_) | None => Ok((false, text + &ended(format!("ended with {}", output.status)))),
            }
        }
    }
}

/// Simulated seconds, out of the line of a run.
fn simulated_of(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("seed "))?;
    line.split_once(" s simulated")?.0.rsplit(' ').next()?.parse().ok()
}

/// Processor time of the processes that this one has started and that have ended, in seconds. None where the kernel has no
/// `/proc`.
fn cpu_of_children() -> Option<f64> {
    /// How the kernel counts for programs, on every machine.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name is in brackets and may hold anything. Behind it: state, and ten more before user time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Figures;

    #[test]
    fn the_simulated_time_is_read_from_the_line_that_is_printed() {
        let figures = Figures { simulated: Duration::from_millis(31_250), ..Figures::default() };
        let text = format!("   1.000 note of 7 s simulated\nseed 4 passed: {figures}, trace ab\n");
        assert_eq!(simulated_of(&text), Some(31.2));
        assert_eq!(simulated_of("seed 4 FAILED: the run ended with signal 9\n"), None);
    }

    #[test]
    fn speed_is_told_by_runs_of_thirty_seconds() {
        assert_eq!(
            speed(600.0, 10.0, Some(5.0)),
            "600 s simulated in 10 s: 120 runs of thirty seconds a minute, 240 a CPU minute"
        );
        assert!(speed(600.0, 10.0, None).ends_with("120 runs of thirty seconds a minute"));
    }

    #[test]
    fn the_time_of_children_is_counted() {
        let before = cpu_of_children().expect("this machine has /proc");
        let mut burnt = std::process::Command::new("sh");
        burnt.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
        assert!(burnt.status().expect("there is a shell").success());
        assert!(cpu_of_children().expect("as before") > before);
    }
}
