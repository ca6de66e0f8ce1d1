//! How long until a change is seen by a request, and what 10,000 changes a second do to requests: the same load by turns
//! while nothing changes and while that much does, and the ratio within each pair.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cell_figures::{Figure, Figures, median};
use hdrhistogram::Histogram;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::compare::Extent;
use crate::fleet::{self, DOMAIN, Synthetic};
use crate::load::Outcome;
use crate::processes::{LoadProcess, OriginProcess};
use crate::proxies::say;
use crate::raw::Raw;

/// How long until a change is seen by a request, and what 10,000 changes a second do to requests
#[derive(Debug, clap::Args)]
pub(crate) struct Visible {
    /// Rounds: pairs of measurements, without and with changes
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// Tenants in the table
    #[arg(long, default_value_t = WHOLE, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub(crate) tenants: u32,
    /// Changes that are timed
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) changes: u32,
}

const RATE: f64 = 1_000.0;
const CHANGES_PER_SECOND: u32 = 10_000;
/// How much of that has to have come about.
const CHANGES_HELD: f64 = 0.99;
/// Of how many tenants the floors are.
const WHOLE: u32 = 1_000_000;
/// How long after a change a request may see the old cell, and should, in milliseconds.
const VISIBLE_MS_MAX: f64 = 20.0;
const VISIBLE_MS_GOAL: f64 = 5.0;
/// How many times the p99 of a request may be what it is while nothing changes.
const P99_RATIO_MAX: f64 = 1.1;

/// The same load without and with changes.
#[derive(Debug)]
struct Pair {
    quiet: Outcome,
    busy: Outcome,
    changes_per_second: f64,
}

impl Visible {
    pub(crate) async fn measure(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let origins = [OriginProcess::start(&["--name", "a"])?, OriginProcess::start(&["--name", "b"])?];
        let cells = [("cell-a", origins[0].address.to_string()), ("cell-b", origins[1].address.to_string())];
        let control = Synthetic::new(self.tenants, &cells)?;
        let began = Instant::now();
        let (handle, running) =
            fleet::start(Arc::clone(&control), fleet::options(any, any, 1), CancellationToken::new()).await?;
        let measure = |what: &str| format!("{} tenants: {what}", self.tenants);
        figures.add(Figure::free(measure("table taken from a watch"), "s", began.elapsed().as_secs_f64()));
        let address = handle.addresses().listen;
        let seen = self.time_changes(&control, address).await?;
        let whole = self.tenants >= WHOLE;
        if !whole {
            let why = format!("visible: the floors of {WHOLE} tenants, because there were {}", self.tenants);
            figures.leave_out(why);
        }
        let ms = |quantile| seen.value_at_quantile(quantile) as f64 / 1e3;
        let limits = (whole.then_some(VISIBLE_MS_MAX), whole.then_some(VISIBLE_MS_GOAL));
        figures.add(Figure::free(measure("change of one until a request sees it, p50"), "ms", ms(0.5)));
        let p99 = measure("change of one until a request sees it, p99");
        figures.add(Figure::at_most(p99, "ms", ms(0.99), limits.0, limits.1));
        figures.add(Figure::free(measure("change of one until a request sees it, worst"), "ms", ms(1.0)));
        let mut pairs = Vec::new();
        for round in 0..self.extent.rounds {
            let quiet = load(address, self.extent.seconds).await?;
            let (before, began) = (control.revision(), Instant::now());
            let storm = tokio::spawn(Arc::clone(&control).storm(CHANGES_PER_SECOND));
            let busy = load(address, self.extent.seconds).await;
            anyhow::ensure!(!storm.is_finished(), "the changes have stopped");
            let changes = control.revision() - before;
            let changes_per_second = changes as f64 / began.elapsed().as_secs_f64();
            storm.abort();
            let pair = Pair { quiet, busy: busy?, changes_per_second };
            say(&format!("round {round}: {pair:?}"));
            pairs.push(pair);
        }
        running.abort();
        tell(&pairs, whole, &measure("while 10,000 a second change"), figures);
        Ok(())
    }

    /// Changes one tenant after the other, and asks as it until the other cell answers.
    async fn time_changes(&self, control: &Synthetic, address: SocketAddr) -> anyhow::Result<Histogram<u64>> {
        let mut seen = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
        let mut client = Raw::connect(address).await?;
        for n in 0..self.changes {
            let (tenant, cell) = (n % 97, usize::try_from((n / 97 + 1) % 2)?);
            let wanted = [b'a', b'b'][cell];
            let changed = Instant::now();
            control.change(tenant, cell).await?;
            let head = format!("GET / HTTP/1.1\r\nhost: t-{tenant}.{DOMAIN}\r\n\r\n");
            while client.ask(&head).await?.first() != Some(&wanted) {
                anyhow::ensure!(
                    changed.elapsed() < Duration::from_secs(10),
                    "the change of t-{tenant} is not seen"
                );
            }
            seen.saturating_record(u64::try_from(changed.elapsed().as_micros())?.max(1));
        }
        Ok(seen)
    }
}

fn tell(pairs: &[Pair], whole: bool, measure: &str, figures: &mut Figures) {
    // Beside a load that failed without changes nothing can be said of what changes do.
    let ratio = |pair: &Pair| match pair.quiet.p99_ms {
        quiet if quiet.is_finite() => pair.busy.p99_ms / quiet,
        _ => f64::NAN,
    };
    let floor = whole.then_some(P99_RATIO_MAX);
    let ratio = median(pairs.iter().map(ratio));
    figures.add(Figure::at_most(
        format!("{measure}: p99 of a request, of that while none does"),
        "×",
        ratio,
        floor,
        None,
    ));
    let least = whole.then_some(f64::from(CHANGES_PER_SECOND) * CHANGES_HELD);
    let made = median(pairs.iter().map(|pair| pair.changes_per_second));
    figures.add(Figure::at_least(format!("{measure}: changes that were made"), "/s", made, least));
    let p99 = |of: fn(&Pair) -> f64| median(pairs.iter().map(of));
    figures.add(Figure::free(format!("{measure}: p99 of a request"), "ms", p99(|pair| pair.busy.p99_ms)));
    figures.add(Figure::free("the same while none does: p99 of a request", "ms", p99(|pair| pair.quiet.p99_ms)));
}

async fn load(address: SocketAddr, seconds: u32) -> anyhow::Result<Outcome> {
    let load = LoadProcess::start(address, 1, 1, RATE, seconds)?;
    tokio::task::spawn_blocking(|| load.wait()).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(answered: u64, p99_ms: f64) -> Outcome {
        let others = std::collections::BTreeMap::default();
        Outcome { asked: 1_000, answered, others, p50_ms: 1.0, p99_ms, max_ms: p99_ms, goodput: 1_000.0 }.judged()
    }

    fn missed(quiet: Outcome, busy: Outcome, changes_per_second: f64) -> usize {
        let mut figures = Figures::default();
        tell(&[Pair { quiet, busy, changes_per_second }], true, "changes", &mut figures);
        figures.hold().map_or_else(|missed| missed.missed.len(), |()| 0)
    }

    #[test]
    fn requests_beside_changes_are_nearly_as_fast_as_without_and_all_of_it_took_place() {
        assert_eq!(missed(outcome(1_000, 1.0), outcome(1_000, 1.1), 9_990.0), 0);
        assert_eq!(missed(outcome(1_000, 1.0), outcome(1_000, 1.11), 9_990.0), 1);
        assert_eq!(missed(outcome(1_000, 1.0), outcome(989, 1.0), 9_990.0), 1, "too little was answered");
        assert_eq!(missed(outcome(989, 1.0), outcome(1_000, 1.0), 9_990.0), 1, "even without changes");
        assert_eq!(missed(outcome(1_000, 1.0), outcome(1_000, 1.0), 9_800.0), 1, "too little was changed");
    }
}
