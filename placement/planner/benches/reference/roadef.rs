//! ROADEF/EURO 2012, machine reassignment, set A: how near to the proven bounds, and to published results of the challenge, does
//! the planner's way of searching get?
//!
//! The instances have up to twelve resources of no hours, services that depend on each other, and a cost of five parts;
//! a fleet of this crate has none of these, so it is not the planner itself that runs here. What runs is its method on
//! the challenge's own terms: resources *above a level* cost (the safety capacity), a process in flight counts on both
//! machines (transient use), a tenant moves, two change places or one makes room for another, each change is judged
//! exactly and taken back if a constraint breaks, and the search ends after a number of steps, so that it finds the same
//! everywhere. Two searches run side by side, each with dice of its own; the cheaper result counts.
//!
//! * `instance.rs` reads an instance, and judges an assignment: every constraint and the whole cost, from scratch.
//! * `state.rs` keeps sums, so that one change is judged in the time of two machines; `services.rs` those of services.
//! * `search.rs` looks for a cheaper assignment, from the start that the challenge gives; `chain.rs` has its longer moves.
//!
//! The judge shares no sums with the search. It is itself checked: what it says of each start must be what the challenge
//! says. The bounds are those that lie beside the instances; some are far below what anybody has found (of `a2_1` the
//! bound is 0), so what team S41 published stands beside them.

mod chain;
mod instance;
mod search;
mod services;
mod state;

use std::path::Path;
use std::time::Instant;

use cell_figures::{Figure, Figures};

use crate::dice::Dice;
use crate::fleets::percentile;
use instance::Instance;

/// Each instance, and what team S41, which won the challenge, found in 300 s on four cores of 2.66 GHz: the table that
/// the team published with its program.
const INSTANCES: [(&str, i64); 10] = [
    ("a1_1", 44_306_501),
    ("a1_2", 777_912_030),
    ("a1_3", 583_006_422),
    ("a1_4", 262_125_116),
    ("a1_5", 727_578_310),
    ("a2_1", 329),
    ("a2_2", 746_097_632),
    ("a2_3", 1_210_644_572),
    ("a2_4", 1_680_615_349),
    ("a2_5", 318_358_949),
];
/// Looks at a change in one search; and from which dice.
const STEPS: u64 = 100_000_000;
const STEPS_QUICK: u64 = 2_000_000;
const SEEDS: [u64; 2] = [2012, 41];

/// One instance, done.
struct Done {
    cost: i64,
    start: i64,
    bound: i64,
    seconds: f64,
}

impl Done {
    fn percent_above(&self, other: i64) -> f64 {
        if other > 0 { (self.cost as f64 / other as f64 - 1.0) * 100.0 } else { f64::INFINITY }
    }
}

pub(crate) fn run(figures: &mut Figures, quick: bool) {
    let Some(directory) = std::env::var_os("CELLWAY_DATA") else {
        return figures.leave_out("ROADEF 2012 set A: CELLWAY_DATA is not set");
    };
    let directory = Path::new(&directory).join("roadef2012-a");
    let (mut gaps, mut behind) = (Vec::new(), Vec::new());
    let mut slowest = 0.0f64;
    for (name, theirs) in INSTANCES {
        match solve(&directory, name, if quick { STEPS_QUICK } else { STEPS }) {
            Ok(done) => {
                for (peer, other) in [("start", done.start), ("lower bound", done.bound), ("S41", theirs)] {
                    let measure = format!("ROADEF {name}: cost");
                    figures.add(Figure::less_beside(measure, "", (done.cost as f64, other as f64), peer, None));
                }
                gaps.push(done.percent_above(done.bound));
                behind.push(done.percent_above(theirs));
                slowest = slowest.max(done.seconds);
            }
            Err(why) => figures.leave_out(format!("ROADEF {name}: {why}")),
        }
    }
    if gaps.len() < INSTANCES.len() {
        return figures.leave_out("ROADEF: the median, because not every instance was read");
    }
    // A look takes a fiftieth of the steps: what it finds is not what is asked.
    let asked = |floor: f64| (!quick).then_some(floor);
    if quick {
        figures.leave_out("ROADEF: what its gaps and its time must hold, because of --quick");
    }
    // Of ten, the median is between the fifth and the sixth: the worse one has to hold.
    for (what, gaps) in [("the lower bound", &mut gaps), ("S41", &mut behind)] {
        let median = percentile(gaps, 0.6);
        let measure = format!("ROADEF set A: sixth best gap to {what}");
        figures.add(Figure::at_most(measure, "%", median, asked(2.0), None));
    }
    figures.add(Figure::at_most("ROADEF set A: time of the slowest", "s", slowest, asked(60.0), None));
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
    let found = std::thread::scope(|scope| {
        let instance = &instance;
        let search = |seed| scope.spawn(move || search::search(instance, steps, &mut Dice(seed)));
        let running = SEEDS.map(search);
        running.map(|of| of.join().expect("a search does not panic"))
    });
    let (found, cost) = found.into_iter().min_by_key(|(_, cost)| *cost).expect("there are searches");
    let seconds = began.elapsed().as_secs_f64();
    let judged = instance.judge(&found);
    assert_eq!(judged, Ok(cost), "{name}: what was found is feasible and costs what the search says");
    Ok(Done { cost, start, bound, seconds })
}
