//! Two tenants at an origin that can do 500 a second, ten at once: A asks 1,000 times a second, B ten times. How long B
//! waits, and how much of what B leaves A gets.

use std::collections::BTreeMap;

use anyhow::Context;
use cell_figures::{Figure, Figures};

use crate::ground::Ground;
use crate::load::Outcome;
use crate::processes::{LoadProcess, OriginProcess};
use crate::proxies::{self, Wire, say};

const CAPACITY: f64 = 500.0;
const OURS: &str = "cellway";
/// How long B may wait, in milliseconds.
const B_P99_MS_MAX: f64 = 80.0;
/// How much of what B leaves A has to get.
const A_PART_MIN: f64 = 0.95;

/// Two tenants at an origin of 500 a second: A asks 1,000 times, B ten times
#[derive(Debug, clap::Args)]
pub(crate) struct Fair {
    /// Seconds of it for each proxy
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
}

/// What both tenants got.
#[derive(Debug)]
struct Shared {
    a: Outcome,
    b: Outcome,
}

impl Fair {
    pub(crate) fn measure(&self, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
        let mut setting = ground.setting(100, Wire::H1);
        let mut seen = BTreeMap::new();
        for name in proxies::names() {
            // Each gets an origin with nothing in its queue.
            let origin = OriginProcess::start_slow()?;
            setting.origin = origin.address;
            let Some(proxy) = proxies::start_one(name, &setting)? else { continue };
            let start = |tenant, rate| LoadProcess::start(proxy.address, tenant, 1, rate, self.seconds);
            let (a, b) = (start(1, 1_000.0)?, start(2, 10.0)?);
            let shared = Shared { a: a.wait().context("tenant A")?, b: b.wait().context("tenant B")? };
            say(&format!("{name}: {shared:?}"));
            seen.insert(name, shared);
        }
        tell(&seen, figures);
        Ok(())
    }
}

fn tell(seen: &BTreeMap<&str, Shared>, figures: &mut Figures) {
    let b_p99 = |shared: &Shared| shared.b.p99_ms;
    let a_part = |shared: &Shared| shared.a.goodput / (CAPACITY - shared.b.goodput);
    let (b, a) = ("B's p99 beside A, who asks for twice what there is", "A's goodput, of what B leaves");
    let ours = seen.get(OURS);
    let of = |of: fn(&Shared) -> f64| ours.map_or(f64::NAN, of);
    figures.add(Figure::at_most(b, "ms", of(b_p99), Some(B_P99_MS_MAX), None));
    figures.add(Figure::at_least(a, "", of(a_part), Some(A_PART_MIN)));
    for (name, theirs) in seen.iter().filter(|(name, _)| **name != OURS) {
        figures.add(Figure::less_beside(b, "ms", (of(b_p99), b_p99(theirs)), *name, None));
        figures.add(Figure::beside(a, "", (of(a_part), a_part(theirs)), *name, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(a_goodput: f64, b_p99_ms: f64, b_answered: u64) -> Shared {
        let outcome = |asked, answered, p99_ms, goodput| {
            let others = BTreeMap::default();
            Outcome { asked, answered, others, p50_ms: 1.0, p99_ms, max_ms: p99_ms, goodput }.judged()
        };
        Shared { a: outcome(15_000, 7_000, 900.0, a_goodput), b: outcome(150, b_answered, b_p99_ms, 10.0) }
    }

    fn missed(ours: Option<Shared>) -> usize {
        let mut figures = Figures::default();
        let ours = ours.map(|ours| (OURS, ours));
        tell(&ours.into_iter().chain([("nginx", shared(500.0, 1_300.0, 150))]).collect(), &mut figures);
        figures.hold().map_or_else(|missed| missed.missed.len(), |()| 0)
    }

    #[test]
    fn b_waits_no_longer_than_is_allowed_and_a_gets_what_is_left() {
        assert_eq!(missed(Some(shared(466.0, 79.0, 150))), 0);
        assert_eq!(missed(Some(shared(466.0, 81.0, 150))), 1);
        assert_eq!(missed(Some(shared(465.0, 79.0, 150))), 1, "95 % of 490 is more");
        assert_eq!(missed(Some(shared(466.0, 1.0, 148))), 1, "B was turned away: that it was fast says nothing");
        assert_eq!(missed(None), 2, "ours was not measured");
    }
}
