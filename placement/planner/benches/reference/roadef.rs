//! ROADEF/EURO 2012, machine reassignment, set A: how near to the proven bounds does the planner's way of searching get?
//!
//! The instances have up to twelve resources of no hours, services that depend on each other, and a cost of five parts;
//! a fleet of this crate has none of these, so it is not the planner itself that runs here. What runs is its method on
//! the challenge's own terms: resources *above a level* cost (the safety capacity), a process in flight counts on both
//! machines (transient use), a tenant moves or two change places, each change is judged exactly and taken back if a
//! constraint breaks, and the search ends after a number of steps, so that it finds the same everywhere.
//!
//! * `instance.rs` reads an instance, and judges an assignment: every constraint and the whole cost, from scratch.
//! * `state.rs` keeps sums, so that one change is judged in the time of two machines.
//! * `search.rs` looks for a cheaper assignment, from the start that the challenge gives.
//!
//! The judge shares no sums with the search. It is itself checked: what it says of each start must be what the challenge
//! says. The bounds are those that lie beside the instances; some are far below what anybody has found (of `a2_1` the
//! bound is 0), which is why the challenge speaks of medians.

mod instance;
mod search;
mod state;

use std::path::Path;
use std::time::Instant;

use crate::dice::Dice;
use crate::figure::Figures;
use crate::fleets::percentile;
use instance::Instance;

const NAMES: [&str; 10] = ["a1_1", "a1_2", "a1_3", "a1_4", "a1_5", "a2_1", "a2_2", "a2_3", "a2_4", "a2_5"];
/// Looks at a change in one search.
const STEPS: u64 = 60_000_000;
const STEPS_QUICK: u64 = 2_000_000;

/// One instance, done.
struct Done {
    cost: i64,
    start: i64,
    bound: i64,
    seconds: f64,
}

impl Done {
    fn gap_percent(&self) -> f64 {
        if self.bound > 0 { (self.cost as f64 / self.bound as f64 - 1.0) * 100.0 } else { f64::INFINITY }
    }
}

pub(crate) fn run(figures: &mut Figures, quick: bool) {
    let Some(directory) = std::env::var_os("CELLWAY_DATA") else {
        return figures.left_out.push("ROADEF 2012 set A: CELLWAY_DATA is not set".into());
    };
    let directory = Path::new(&directory).join("roadef2012-a");
    let mut gaps = Vec::new();
    let mut slowest = 0.0f64;
    for name in NAMES {
        match solve(&directory, name, if quick { STEPS_QUICK } else { STEPS }) {
            Ok(done) => {
                figures.beside(format!("ROADEF {name}: cost"), "", done.cost as f64, done.start as f64, "start");
                figures.beside(
                    format!("ROADEF {name}: cost"),
                    "",
                    done.cost as f64,
                    done.bound as f64,
                    "lower bound",
                );
                gaps.push(done.gap_percent());
                slowest = slowest.max(done.seconds);
            }
            Err(why) => figures.left_out.push(format!("ROADEF {name}: {why}")),
        }
    }
    if gaps.len() < NAMES.len() {
        return figures.left_out.push("ROADEF: the median, because not every instance was read".into());
    }
    // Of ten, the median is between the fifth and the sixth: the worse one has to hold.
    let median = percentile(&mut gaps, 0.6);
    figures.ours("ROADEF set A: instances that are feasible", "", gaps.len() as f64);
    figures.ours("ROADEF set A: sixth best gap to the lower bound", "%", median).floor = Some(2.0);
    figures.ours("ROADEF set A: time of the slowest", "s", slowest).floor = Some(60.0);
}

/// Searches, and has the judge say what came of it.
///
/// # Panics
/// Where the judge and the search disagree, or what was found is not feasible: then no figure of this is true.
fn solve(directory: &Path, name: &str, steps: u64) -> Result<Done, String> {
    let text = |kind: &str| {
        let path = directory.join(format!("{kind}_{name}.txt"));
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let number = |kind: &str| {
        text(kind)?.trim().parse::<i64>().map_err(|error| format!("{kind} of {name} is no number: {error}"))
    };
    let instance = Instance::read(&text("model")?, &text("assignment")?)?;
    let (start, bound) = (number("original_cost")?, number("lb")?);
    let judged = instance.judge(&instance.start);
    assert_eq!(judged, Ok(start), "{name}: the judge says of the start what the challenge says");
    let began = Instant::now();
    let (found, cost) = search::search(&instance, steps, &mut Dice(2012));
    let seconds = began.elapsed().as_secs_f64();
    let judged = instance.judge(&found);
    assert_eq!(judged, Ok(cost), "{name}: what was found is feasible and costs what the search says");
    Ok(Done { cost, start, bound, seconds })
}
