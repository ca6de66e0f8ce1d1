//! Measures the planner on made-up fleets and prints what it saw, one line a measure.
//!
//! ```text
//! cargo run --release -p cell-planner --example measure -- all
//! cargo run --release -p cell-planner --example measure -- plan tenants=1000000 cells=1000 moves=1000
//! ```
//!
//! Measures: `place`, `drain`, `plan`, `quality`, `near`, `pack`, `simulate`; `all` runs every one. Options: `tenants=`,
//! `cells=`, `moves=`, `seed=`, `deviation=` (deviation by mean), `effort=` (for `pack`). The fleets: sizes are
//! lognormal (sigma 1.6, cut at a fifth of a cell), demand follows the working hours of three time zones, and who is where is a hash, so that
//! cells are filled to 70 % on average and the fullest is far above that.

#![allow(clippy::needless_range_loop, reason = "a dimension is the index of several arrays at once")]
#![expect(clippy::print_stdout, reason = "it is there to print")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::time::Instant;

use cell_model::{CellId, Revision, UnixMillis};
use cell_planner::{
    Amounts, Bounds, CellEntry, Demand, Fleet, FleetBuilder, FleetDocument, Goal, HomeRing, Hourly, Layout, Place,
    Policy, Request, ResourceDemand, RingOptions, Scenario, Simulation, TenantEntry, pack, place, plan, simulate,
};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a count")
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn lognormal(&mut self, sigma: f64) -> f64 {
        let (radius, angle) = ((-2.0 * (1.0 - self.share()).ln()).sqrt(), std::f64::consts::TAU * self.share());
        (sigma * radius * angle.cos()).exp()
    }
}

#[derive(Clone, Copy)]
struct Options {
    tenants: usize,
    cells: usize,
    moves: u32,
    seed: u64,
    deviation: f64,
    effort: u32,
}

fn option(name: &str, usual: f64) -> f64 {
    let given = std::env::args().find_map(|arg| arg.strip_prefix(&format!("{name}=")).map(str::to_owned));
    given.map_or(usual, |text| text.parse().expect("a number"))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "options are small whole numbers")]
fn options(tenants: f64, cells: f64, moves: f64) -> Options {
    Options {
        tenants: option("tenants", tenants) as usize,
        cells: option("cells", cells) as usize,
        moves: option("moves", moves) as u32,
        seed: option("seed", 1.0) as u64,
        deviation: option("deviation", 0.05),
        effort: option("effort", 20_000.0) as u32,
    }
}

/// One tenant of a made-up fleet.
struct Made {
    size: [f64; 3],
    zone: usize,
    cell: usize,
}

fn made(dice: &mut Dice, Options { tenants, cells, .. }: Options) -> Made {
    // 3.6 is the mean of that lognormal; nobody takes more than a fifth of an average cell.
    let size = dice.lognormal(1.6).min(0.2 * 3.6 * tenants as f64 / cells as f64);
    let vary = |dice: &mut Dice| size * (0.5 + dice.share());
    Made { size: [vary(dice), vary(dice), vary(dice)], zone: dice.below(3), cell: dice.below(cells) }
}

/// Working hours: from 0.2 at night to 1 at the height of the day; storage does not sleep.
fn at_hour(resource: usize, zone: usize, hour: usize) -> f64 {
    if resource == 2 {
        return 1.0;
    }
    let local = (hour + 8 * zone) % 24;
    let angle = (local as f64 - 14.0) / 24.0 * std::f64::consts::TAU;
    0.6 + 0.4 * angle.cos()
}

fn entry(index: usize, made: &Made, deviation: f64, unit: f64) -> TenantEntry {
    let demand = |resource: usize| {
        let by_hour = |factor: f64| {
            let values =
                (0..24).map(|hour| made.size[resource] * at_hour(resource, made.zone, hour) * factor * unit);
            Hourly::ByHour(values.collect())
        };
        ResourceDemand { mean: by_hour(1.0), deviation: by_hour(deviation) }
    };
    TenantEntry {
        id: format!("t-{index:07}"),
        cell: if made.cell == usize::MAX { String::new() } else { format!("c-{:04}", made.cell) },
        demand: Demand { cpu: demand(0), connections: demand(1), storage: demand(2) },
        ..TenantEntry::default()
    }
}

/// A fleet by the hash, its cells filled to 70 % on average where they are fullest.
fn fleet(options: Options) -> Fleet {
    const UNIT: f64 = 0.05;
    let mut totals = [[0.0f64; 24]; 3];
    let mut dice = Dice(options.seed);
    for _ in 0..options.tenants {
        let of = made(&mut dice, options);
        for (resource, totals) in totals.iter_mut().enumerate() {
            for (hour, total) in totals.iter_mut().enumerate() {
                *total += of.size[resource] * at_hour(resource, of.zone, hour) * UNIT;
            }
        }
    }
    let capacity = totals.map(|hours| hours.into_iter().fold(0.0, f64::max) / options.cells as f64 / 0.7);
    let [cpu, connections, storage] = capacity;
    let cells: Vec<CellEntry> = (0..options.cells)
        .map(|index| CellEntry {
            id: format!("c-{index:04}"),
            domain: format!("rack-{}", index % 20),
            capacity: Amounts { cpu, connections, storage },
            ..CellEntry::default()
        })
        .collect();
    let mut builder =
        FleetBuilder::new(Revision(1), cells.iter().enumerate().map(|(at, cell)| (Place::Cell(at), cell)));
    let mut dice = Dice(options.seed);
    for index in 0..options.tenants {
        let of = made(&mut dice, options);
        builder.tenant(Place::Tenant(index), &entry(index, &of, options.deviation, UNIT));
    }
    builder.finish().expect("it is made by rule")
}

fn ring(fleet: &Fleet) -> HomeRing {
    let cells = fleet.cells().map(|cell| fleet.cell_id(cell).clone());
    HomeRing::build(cells, RingOptions::default()).expect("a small ring")
}

/// Megabytes of this process: now, and at the most so far.
fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn say(measure: &str, told: &str) {
    println!("{measure:<10} {told}");
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let done = work();
    (done, begin.elapsed().as_secs_f64())
}

fn percentiles(mut seconds: Vec<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let at = |share: usize| seconds[(seconds.len() - 1) * share / 1000] * 1e6;
    format!("p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs", at(500), at(990), at(999))
}

fn measure_place() {
    let options = options(100_000.0, 1_000.0, 0.0);
    let fleet = fleet(options);
    let ring = ring(&fleet);
    let layout = Layout::new(&fleet, Policy::default());
    let mut dice = Dice(7);
    let mut times = Vec::new();
    for turn in 0..12_000 {
        let tenant = fleet.tenants().nth(dice.below(options.tenants)).expect("below the count");
        let (decision, seconds) = timed(|| place(&layout, Some(&ring), tenant).expect("nobody moves"));
        assert!(decision.chosen.is_some());
        if turn >= 2_000 {
            times.push(seconds);
        }
    }
    say("place", &format!("{} cells × 72, with explanation: {}", options.cells, percentiles(times)));
}

fn request(goal: Goal, moves: u32) -> Request {
    let bounds = Bounds { moves_max: moves, at_once_max: 64, ..Bounds::default() };
    Request { goal, bounds, now: UnixMillis(0) }
}

fn measure_drain() {
    let options = options(1_000_000.0, 1_000.0, 2_000.0);
    let fleet = fleet(options);
    let ring = ring(&fleet);
    let cell = CellId::new("c-0007").expect("a name");
    let drain = request(Goal::Drain { cells: vec![cell] }, options.moves);
    let nothing = request(Goal::Repair, 1);
    let (_, base) = timed(|| plan(&fleet, Policy::default(), Some(&ring), &nothing).expect("a plan"));
    let (plan, seconds) = timed(|| plan(&fleet, Policy::default(), Some(&ring), &drain).expect("a plan"));
    say(
        "drain",
        &format!(
            "{} tenants of {} off one of {} cells: {:.0} ms ({:.0} ms of them to lay out the fleet), {} waves, {:?}",
            plan.moves,
            options.tenants,
            options.cells,
            seconds * 1e3,
            base * 1e3,
            plan.waves.len(),
            plan.verdict
        ),
    );
}

/// Evened out as far as so many moves allow.
fn measure_even(name: &str, options: Options) {
    let fleet = fleet(options);
    let (before, _) = memory();
    let policy = Policy { gain_min: option("gain", 1e-4), ..Policy::default() }.even();
    let (plan, seconds) =
        timed(|| plan(&fleet, policy, None, &request(Goal::Rebalance, options.moves)).expect("a plan"));
    let (_, most) = memory();
    let quality = &plan.quality;
    say(
        name,
        &format!(
            "{} × {} × 72: {} moves in {seconds:.2} s; fullest {:.4} → {:.4}, bound {:.4}, gap {:.2} %; {before} MB \
             fleet, {most} MB at most; {}",
            options.tenants,
            options.cells,
            plan.moves,
            quality.hottest_before,
            quality.hottest_after,
            quality.lower_bound,
            quality.gap * 100.0,
            plan.why.chars().take(160).collect::<String>()
        ),
    );
}

/// Cells that are full to the last thousandth, taken apart.
fn perfect(cells: usize, each: usize, seed: u64) -> Fleet {
    const CAPACITY: u64 = 60_000;
    let mut dice = Dice(seed);
    let mut tenants = Vec::new();
    for _ in 0..cells {
        let mut cut = |count: usize| {
            let mut cuts: Vec<u64> = (1..count).map(|_| 1 + dice.next() % (CAPACITY - 1)).collect();
            cuts.extend([0, CAPACITY]);
            cuts.sort_unstable();
            cuts.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1000.0).collect::<Vec<f64>>()
        };
        let parts = [cut(each), cut(each), cut(each)];
        for at in 0..each {
            let flat = |resource: usize| ResourceDemand {
                mean: Hourly::Flat(parts[resource][at]),
                deviation: Hourly::default(),
            };
            tenants.push(TenantEntry {
                id: format!("t-{}", tenants.len()),
                demand: Demand { cpu: flat(0), connections: flat(1), storage: flat(2) },
                ..TenantEntry::default()
            });
        }
    }
    let full = CAPACITY as f64 / 1000.0;
    let cell = CellEntry {
        id: "c".into(),
        capacity: Amounts { cpu: full, connections: full, storage: full },
        ..CellEntry::default()
    };
    let document = FleetDocument { revision: Revision(1), cells: vec![cell], tenants, ..FleetDocument::default() };
    document.build().expect("it is made by rule")
}

fn measure_pack() {
    let options = options(0.0, 100.0, 0.0);
    for each in [4, 8, 16] {
        for seed in 1..=3 {
            let fleet = perfect(options.cells, each, seed);
            let (packed, seconds) = timed(|| pack(&fleet, Policy::default(), options.effort).expect("it packs"));
            let found = packed[0].cells_packed;
            let gap = (found as f64 / options.cells as f64 - 1.0) * 100.0;
            let told =
                format!("{} cells × {each}, seed {seed}: {found}, gap {gap:.1} %, {seconds:.1} s", options.cells);
            say("pack", &told);
        }
    }
}

fn measure_simulate() {
    let options = options(12_000.0, 120.0, 500.0);
    let fleet = fleet(options);
    let ring = ring(&fleet);
    let scenario = Scenario { growth_monthly: 0.05, weekend: 0.7, spike_chance: 0.002, ..Scenario::default() };
    let bounds = Bounds { moves_max: options.moves, ..Bounds::default() };
    let simulation = Simulation { bounds, ..Simulation::default() };
    let (report, seconds) =
        timed(|| simulate(&fleet, &scenario.over(&fleet), Some(&ring), &simulation, &mut |_| {}).expect("it runs"));
    let totals = &report.totals;
    say(
        "simulate",
        &format!(
            "{} × {}, {} days: {seconds:.1} s; {} moves, {} of them again within a day, {} cell-hours over capacity",
            options.tenants,
            options.cells,
            report.days.len(),
            totals.moves,
            totals.moved_again,
            totals.hours_over_capacity
        ),
    );
}

fn main() {
    let asked = std::env::args().nth(1).unwrap_or_else(|| "all".into());
    let measures: [(&str, fn()); 7] = [
        ("place", measure_place),
        ("drain", measure_drain),
        ("quality", || measure_even("quality", options(10_000.0, 100.0, 100.0))),
        ("plan", || measure_even("plan", options(1_000_000.0, 1_000.0, 1_000.0))),
        ("near", || measure_even("near", options(1_000_000.0, 1_000.0, 10_000.0))),
        ("pack", measure_pack),
        ("simulate", measure_simulate),
    ];
    for (_, measure) in measures.iter().filter(|(name, _)| asked == "all" || asked == *name) {
        measure();
    }
}
