//! Real use: place on what has been seen, replay what came after. A cell that wants more than it has is in violation.
//!
//! Density is measured against the usual rule: best fit on the sum of peaks. The files are not part of the repository;
//! `CELLWAY_DATA` names their directory.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use cell_figures::{Figure, Figures};
use cell_model::Revision;
use cell_planner::{Amounts, CellEntry, Demand, FleetDocument, Hourly, Policy, ResourceDemand, TenantEntry};

use crate::fleets::place_all;

/// One machine: what is known of it by hour of the day, and what it wants on the day after, in equal steps.
struct Machine {
    mean: Vec<f64>,
    deviation: Vec<f64>,
    peak: f64,
    replay: Vec<f64>,
}

impl Machine {
    /// The most that it wants of a cell by itself, by either way of counting.
    fn need(&self) -> f64 {
        let hours = self.mean.iter().zip(&self.deviation).map(|(mean, deviation)| mean + 2.0 * deviation);
        hours.fold(self.peak, f64::max)
    }
}

/// Cells that were needed, and how often they were in violation on the day after.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    cells: usize,
    steps: usize,
    violations: usize,
}

pub(crate) fn run(figures: &mut Figures) {
    let Some(directory) = std::env::var_os("CELLWAY_DATA") else {
        return figures.leave_out("PlanetLab and Bitbrains traces: CELLWAY_DATA is not set");
    };
    let directory = Path::new(&directory);
    match planetlab(directory) {
        Ok(days) => compare(figures, "PlanetLab", &days, 1_000.0),
        Err(why) => figures.leave_out(format!("PlanetLab: {why}")),
    }
    match bitbrains(directory) {
        Ok(days) => compare(figures, "Bitbrains", &days, 30_000.0),
        Err(why) => figures.leave_out(format!("Bitbrains: {why}")),
    }
}

fn text(path: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(told)?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).map_err(told)?;
    Ok(text)
}

/// Rows by name; an empty field is not a number.
fn rows(text: &str, skip: usize) -> BTreeMap<String, Vec<f64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    let row = |line: &str| {
        let mut fields = line.split(',');
        let name = fields.next()?.to_owned();
        Some((name, fields.skip(skip).map(|field| field.parse().unwrap_or(f64::NAN)).collect()))
    };
    lines.filter_map(row).collect()
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64;
    (mean, variance.sqrt())
}

/// What is known of a machine from samples that carry the hour of the day.
fn machine(samples: &[(usize, f64)], replay: Vec<f64>) -> Machine {
    let of_hour = |hour: usize| {
        let values: Vec<f64> = samples.iter().filter(|(at, _)| *at == hour).map(|(_, value)| *value).collect();
        mean_and_deviation(&values)
    };
    let (mean, deviation) = (0..24).map(of_hour).unzip();
    let peak = samples.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    Machine { mean, deviation, peak, replay }
}

/// Machines that both days have: placed by the first, replayed on the second, in steps of five minutes.
fn planetlab(directory: &Path) -> Result<Vec<Vec<Machine>>, String> {
    let seen = rows(&text(&directory.join("planetlab-20110303.csv.gz"))?, 0);
    let mut after = rows(&text(&directory.join("planetlab-20110306.csv.gz"))?, 0);
    let machines = seen.iter().filter_map(|(name, values)| {
        let samples: Vec<(usize, f64)> = values.iter().enumerate().map(|(at, value)| (at / 12, *value)).collect();
        Some(machine(&samples, after.remove(name)?))
    });
    Ok(vec![machines.collect()])
}

/// Each day from the eighth on: placed by the seven days before it, replayed by the hour.
fn bitbrains(directory: &Path) -> Result<Vec<Vec<Machine>>, String> {
    const FIRST_HOUR: usize = 13;
    let rows = rows(&text(&directory.join("bitbrains-small-hourly.csv.gz"))?, 3);
    let hours = rows.values().map(Vec::len).min().ok_or("it has no rows")?;
    let days = (7..hours / 24).map(|day| {
        let machines = rows.values().map(|values| {
            let samples = (24 * (day - 7)..24 * day).filter(|&at| !values[at].is_nan());
            let samples: Vec<(usize, f64)> = samples.map(|at| ((at + FIRST_HOUR) % 24, values[at])).collect();
            let replay = values[24 * day..24 * (day + 1)].iter();
            machine(&samples, replay.map(|value| if value.is_nan() { 0.0 } else { *value }).collect())
        });
        machines.collect()
    });
    Ok(days.collect())
}

fn compare(figures: &mut Figures, name: &str, days: &[Vec<Machine>], capacity: f64) {
    let total = |outcome: &dyn Fn(&[Machine]) -> Outcome| {
        days.iter().map(|day| outcome(day)).fold(Outcome::default(), |sum, of| Outcome {
            cells: sum.cells + of.cells,
            steps: sum.steps + of.steps,
            violations: sum.violations + of.violations,
        })
    };
    // Half of a cell is enough for the largest machine, so that there is something to pack.
    let largest = days.iter().flatten().map(Machine::need).fold(0.0, f64::max);
    let capacity = capacity.max(2.0 * largest);
    let policy = Policy { low_water: 1.0, high_water: 1.0, ..Policy::default() };
    let ours = total(&|day| planned(day, capacity, policy));
    let peaks = total(&|day| on_peaks(day, capacity));
    let machines: usize = days.iter().map(Vec::len).sum();
    let per_cell = |outcome: Outcome| outcome.cells as f64 / machines as f64;
    let measure = format!("{name}, {} days, {machines} machines: cells a machine", days.len());
    let cells = (per_cell(ours), per_cell(peaks));
    figures.add(Figure::less_beside(measure, "", cells, "sum of peaks", None).goal(1.2));
    let violations = |outcome: Outcome| 100.0 * outcome.violations as f64 / outcome.steps.max(1) as f64;
    let measure = format!("{name}: time in violation on the day after");
    figures.add(Figure::at_most(&*measure, "%", violations(ours), None, Some(0.1)));
    let violations = (violations(ours), violations(peaks));
    figures.add(Figure::less_beside(measure, "%", violations, "sum of peaks", None));
}

/// The fewest cells on which the planner finds room for everybody, and the day after on them.
fn planned(day: &[Machine], capacity: f64, policy: Policy) -> Outcome {
    let least = day.iter().map(|of| of.mean.iter().sum::<f64>() / 24.0).sum::<f64>() / capacity;
    let mut cells = (least.floor() as usize).max(1);
    loop {
        let mut document = document(day, cells, capacity);
        place_all(&mut document, policy);
        if document.tenants.iter().all(|tenant| !tenant.cell.is_empty()) {
            let homes: Vec<usize> =
                document.tenants.iter().map(|tenant| tenant.cell[2..].parse().unwrap()).collect();
            return replayed(day, &homes, cells, capacity);
        }
        cells += 1;
        assert!(cells <= day.len(), "a machine does not fit into an empty cell");
    }
}

fn document(day: &[Machine], cells: usize, capacity: f64) -> FleetDocument {
    let capacity = Amounts { cpu: capacity, connections: 0.0, storage: 0.0 };
    let cell = |index| CellEntry { id: format!("c-{index:04}"), capacity, ..CellEntry::default() };
    let tenant = |(index, of): (usize, &Machine)| {
        let mean = Hourly::ByHour(of.mean.clone());
        let cpu = ResourceDemand { mean, deviation: Hourly::ByHour(of.deviation.clone()) };
        TenantEntry {
            id: format!("t-{index:04}"),
            demand: Demand { cpu, ..Demand::default() },
            ..TenantEntry::default()
        }
    };
    FleetDocument {
        revision: Revision(1),
        cells: (0..cells).map(cell).collect(),
        tenants: day.iter().enumerate().map(tenant).collect(),
        ..FleetDocument::default()
    }
}

/// Best fit on the peak of each machine, a new cell where none has room.
fn on_peaks(day: &[Machine], capacity: f64) -> Outcome {
    let mut loads: Vec<f64> = Vec::new();
    let mut homes = Vec::with_capacity(day.len());
    for of in day {
        let fits = (0..loads.len()).filter(|&at| loads[at] + of.peak <= capacity);
        let at = fits.max_by(|&a, &b| loads[a].total_cmp(&loads[b])).unwrap_or_else(|| {
            loads.push(0.0);
            loads.len() - 1
        });
        loads[at] += of.peak;
        homes.push(at);
    }
    replayed(day, &homes, loads.len(), capacity)
}

fn replayed(day: &[Machine], homes: &[usize], cells: usize, capacity: f64) -> Outcome {
    let steps = day.iter().map(|of| of.replay.len()).max().unwrap_or_default();
    let mut loads = vec![vec![0.0; steps]; cells];
    for (of, home) in day.iter().zip(homes) {
        for (load, value) in loads[*home].iter_mut().zip(&of.replay) {
            *load += value;
        }
    }
    let violations = loads.iter().flatten().filter(|load| **load > capacity).count();
    Outcome { cells, steps: steps * cells, violations }
}
