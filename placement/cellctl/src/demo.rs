//! `demo`: shows [`cell_chaos::demo`] while it runs, writes the report, says the verdict.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use cell_chaos::demo::{DemoOptions, Progress, Tell, run as run_demo};
use cell_chaos::report::{Report, Verdict};
use cell_model::MoveOptions;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::cli::Demo;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::follow::bytes;
use crate::host::{end_on_signal, log_to_stderr};

pub(crate) async fn run(said: Demo) -> Result<Exit, Failure> {
    if std::env::var_os("CELLCTL_LOG").is_some() {
        log_to_stderr();
    }
    let moves_min = if said.without_faults { DemoOptions::MOVES_MIN_CALM } else { DemoOptions::MOVES_MIN };
    if said.moves < moves_min {
        let message = format!("{} moves are too few: each of those that a demo promises is one", said.moves);
        return Err(Failure::usage(message, format!("give at least --moves {moves_min}, or --without-faults")));
    }
    let temporary = tempfile::Builder::new().prefix("cellway-demo-").tempdir();
    let temporary = temporary.map_err(|error| Failure::local("TEMP_DIR", &error.into(), "set TMPDIR"))?;
    let directory = said.retain.clone().unwrap_or_else(|| temporary.path().to_owned());
    let program = std::env::current_exe().context("cannot find this program itself");
    let program = program.map_err(|error| Failure::local("PROGRAM", &error, ""))?;
    let options = DemoOptions {
        seed: said.seed,
        tenants: said.tenants,
        moves: said.moves,
        moves_at_once: said.moves_at_once.into(),
        hold_max_ms: u32::try_from(said.max_hold.as_millis()).unwrap_or(MoveOptions::HOLD_CAP_MS),
        faults: !said.without_faults,
        writes_per_second: said.writes_per_second,
        big_bytes: u64::from(said.big) * 1_000_000,
        program,
        directory: directory.clone(),
        plant: plant(&said),
        databases: said.databases.clone(),
        tenant_schema: said.tenant_schema.clone(),
        tenant_database: said.tenant_database.clone(),
        shop: said.shop,
        ..DemoOptions::default()
    };
    let stop = CancellationToken::new();
    end_on_signal(stop.clone()).map_err(|error| Failure::local("SIGNALS", &error.into(), ""))?;
    let screen = Screen::new();
    let ran = run_demo(options, screen.tell(), stop).await;
    screen.clear();
    let report = ran.map_err(|error| {
        let hint = match &said.retain {
            Some(directory) => format!("the logs are in {}", directory.join("logs").display()),
            None => "run it again with --retain DIR to keep the logs".into(),
        };
        Failure::local("DEMO", &error.into(), hint)
    })?;
    finish(&said, &report)
}

#[cfg(feature = "planted")]
fn plant(said: &Demo) -> Option<String> {
    use clap::ValueEnum;
    Some(said.plant?.to_possible_value()?.get_name().to_owned())
}

#[cfg(not(feature = "planted"))]
const fn plant(_said: &Demo) -> Option<String> {
    None
}

fn finish(said: &Demo, report: &Report) -> Result<Exit, Failure> {
    let json = serde_json::to_string_pretty(report).expect("a report is made of text and numbers") + "\n";
    if let Some(file) = &said.report {
        std::fs::write(file, &json)
            .with_context(|| format!("cannot write {}", file.display()))
            .map_err(|error| Failure::local("REPORT", &error, "choose another --report"))?;
    }
    let mut missed = false;
    if let Some(file) = &said.figures {
        let figures = cell_chaos::figures::of(report);
        missed = figures.hold().is_err();
        figures
            .write(file)
            .with_context(|| format!("cannot write {}", file.display()))
            .map_err(|error| Failure::local("REPORT", &error, "choose another --figures"))?;
        console::note(&figures.table());
    }
    let (word, color) = match report.verdict {
        Verdict::Pass => ("PASS", "1;32"),
        Verdict::Fail => ("FAIL", "1;31"),
    };
    console::note(&report.summary());
    let verdict = format!("verdict: {word} (seed {}, {:.0} s)", report.seed, report.seconds);
    console::note(&console::paint(&verdict, color));
    if report.verdict == Verdict::Pass {
        return Ok(if missed { Exit::Failed } else { Exit::Done });
    }
    let kept = if said.retain.is_some() { "" } else { " with --retain DIR, to keep data and logs" };
    console::note(&format!("  next: `cellctl demo --seed {}` runs it again{kept}", report.seed));
    Ok(Exit::Failed)
}

/// Bars on a terminal, plain lines elsewhere.
#[derive(Clone)]
struct Screen {
    bars: Option<Bars>,
    began: Instant,
    /// When the load was last told of, off a terminal.
    told: Arc<Mutex<Instant>>,
}

#[derive(Clone)]
struct Bars {
    all: MultiProgress,
    fill: ProgressBar,
    load: ProgressBar,
}

impl Screen {
    const LOAD_EVERY: Duration = Duration::from_secs(5);

    fn new() -> Self {
        let bars = console::is_live().then(|| {
            let all = MultiProgress::new();
            let style =
                |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let fill = all.add(ProgressBar::new(1).with_style(style("filling  [{bar:30}] {bytes}/{total_bytes}")));
            let load = all.add(ProgressBar::new_spinner().with_style(style("{spinner} {msg}")));
            load.enable_steady_tick(Duration::from_millis(150));
            Bars { all, fill, load }
        });
        Self { bars, began: Instant::now(), told: Arc::new(Mutex::new(Instant::now())) }
    }

    fn tell(&self) -> Tell {
        let screen = self.clone();
        Arc::new(move |progress| screen.show(progress))
    }

    fn clear(&self) {
        if let Some(bars) = &self.bars {
            bars.fill.finish_and_clear();
            bars.load.finish_and_clear();
        }
    }

    fn show(&self, progress: Progress) {
        match progress {
            Progress::Stage(stage) => self.line(&console::paint(&stage, "1")),
            Progress::Filled { bytes: so_far, total } => {
                if let Some(bars) = &self.bars {
                    bars.fill.set_length(total);
                    bars.fill.set_position(so_far);
                }
                if so_far >= total {
                    self.line(&format!("  filled: {}", bytes(so_far)));
                    if let Some(bars) = &self.bars {
                        bars.fill.finish_and_clear();
                    }
                }
            }
            Progress::Load { acked_writes, per_second, failed } => {
                let text = format!("{acked_writes} writes acknowledged, {per_second}/s, {failed} requests failed");
                match &self.bars {
                    Some(bars) => bars.load.set_message(text),
                    None if self.load_is_due() => self.line(&format!("  {text}")),
                    None => {}
                }
            }
            // Every phase only where lines are cheap to skip over.
            Progress::Move { id, tenant, route, phase } => {
                self.line(&format!("  {id:<8} {tenant}  {route}  {phase}"));
            }
            Progress::Ended { id, tenant, end, done: (done, all) } => {
                let color = if end == "unfinished" || end == "aborted" { "31" } else { "32" };
                self.line(&format!("  {id:<8} {tenant}  {}  ({done}/{all})", console::paint(&end, color)));
            }
            Progress::Fault(fault) => self.line(&console::paint(&format!("  ⚡ {fault}"), "33")),
        }
    }

    fn load_is_due(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.elapsed() >= Self::LOAD_EVERY;
        if due {
            *told = Instant::now();
        }
        due
    }

    fn line(&self, text: &str) {
        let line = format!("{:>6.1} s  {text}", self.began.elapsed().as_secs_f64());
        match &self.bars {
            Some(bars) => bars.all.suspend(|| console::note(&line)),
            None => console::note(&line),
        }
    }
}
