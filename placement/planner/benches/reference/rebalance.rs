//! 10,000 tenants that a hash has put on 100 cells, and 100 moves to make it better: ours beside Meta's Rebalancer,
//! which gets the same start, the same cap and a minute.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use cell_figures::{Figure, Figures};
use cell_model::{Revision, UnixMillis};
use cell_planner::{
    Amounts, Bounds, CellEntry, Demand, FleetDocument, Goal, Hourly, Policy, Request, ResourceDemand, TenantEntry,
    plan,
};
use serde_json::json;

use crate::dice::Dice;
use crate::fleets::{judge, ring};

const TENANTS: usize = 10_000;
const CELLS: usize = 100;
const MOVES: u32 = 100;
const FILL: f64 = 0.7;
const SECONDS: u32 = 60;
const SCRIPT: &str = include_str!("rebalancer.py");
const PEER: &str = "rebalancer==1.0.4";
/// What the peer is asked to make small, each in a run of its own, by the numbers of its formulas: squares and the
/// fullest cell; the distance to the ideal. The better run counts.
const FORMULAS: [&[u8]; 2] = [&[2, 3], &[4]];
/// The variable that names the peer's Python.
const PYTHON: &str = "CELLWAY_REBALANCER";

fn start() -> (FleetDocument, Vec<[f64; 3]>) {
    let mut dice = Dice(7);
    let sizes: Vec<[f64; 3]> = (0..TENANTS).map(|_| [(); 3].map(|()| dice.log_normal(1.6).min(60.0))).collect();
    let total = |resource: usize| sizes.iter().map(|size| size[resource]).sum::<f64>();
    let capacity = |resource| total(resource) / (CELLS as f64 * FILL);
    let capacity = Amounts { cpu: capacity(0), connections: capacity(1), storage: capacity(2) };
    let flat = |value| ResourceDemand { mean: Hourly::Flat(value), deviation: Hourly::Flat(0.0) };
    let tenants = sizes.iter().enumerate().map(|(index, size)| TenantEntry {
        id: format!("t-{index:05}"),
        cell: format!("c-{:03}", dice.below(CELLS)),
        demand: Demand { cpu: flat(size[0]), connections: flat(size[1]), storage: flat(size[2]) },
        ..TenantEntry::default()
    });
    let tenants = tenants.collect();
    let cell = |index| CellEntry { id: format!("c-{index:03}"), capacity, ..CellEntry::default() };
    (
        FleetDocument {
            revision: Revision(1),
            cells: (0..CELLS).map(cell).collect(),
            tenants,
            ..FleetDocument::default()
        },
        sizes,
    )
}

pub(crate) fn run(figures: &mut Figures, quick: bool) {
    let (document, sizes) = start();
    let policy = Policy { gain_min: 1e-4, gain_min_per_terabyte: 0.0, ..Policy::default().even() };
    let fleet = document.build().unwrap();
    let bounds = Bounds { moves_max: MOVES, ..Bounds::default() };
    let request = Request { goal: Goal::Rebalance, bounds, now: UnixMillis(0) };
    let began = Instant::now();
    let planned = plan(&fleet, policy, Some(&ring(&fleet)), &request).unwrap();
    let took = began.elapsed().as_secs_f64();
    let before = judge(&document, policy).hottest;
    let measure = format!("10,000 × 100, {MOVES} moves: fullest cell");
    let quality = planned.quality;
    let others = [
        ("before", before),
        ("lower bound", quality.lower_bound),
        ("bound of moves", quality.lower_bound_of_moves),
    ];
    for (name, theirs) in others {
        figures.add(Figure::less_beside(&*measure, "", (quality.hottest_after, theirs), name, None));
    }
    let moves = planned.moves as f64;
    figures.add(Figure::at_most(format!("{measure}: moves"), "", moves, Some(f64::from(MOVES)), None));
    if quick {
        figures.add(Figure::free("10,000 × 100, 100 moves: time", "s", took));
        return figures.leave_out("Rebalancer, because of --quick");
    }
    let mut best: Option<(f64, f64, usize)> = None;
    for formulas in FORMULAS {
        match rebalancer(&document, &sizes, formulas) {
            Ok((theirs, seconds, moves)) => {
                let hottest = judge(&theirs, policy).hottest;
                if best.is_none_or(|(lowest, ..)| hottest < lowest) {
                    best = Some((hottest, seconds, moves));
                }
            }
            Err(why) => figures.leave_out(format!("Rebalancer, formulas {formulas:?}: {why}")),
        }
    }
    let name = best.map_or_else(|| "Rebalancer".into(), |(.., moves)| format!("Rebalancer, {moves} moves"));
    let hottest = (quality.hottest_after, best.map(|(hottest, ..)| hottest));
    figures.add(Figure::less_beside(measure, "", hottest, &*name, 1.0 / 1.01).goal(1.0));
    let times = (took, best.map(|(_, seconds, _)| seconds));
    figures.add(Figure::less_beside("10,000 × 100, 100 moves: time", "s", times, name, 100.0));
}

/// A Python that has the peer: the one that is named, or one that is made below `target` for it.
fn python() -> Result<String, String> {
    if let Ok(python) = std::env::var(PYTHON) {
        return Ok(python);
    }
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = here.ancestors().nth(3).ok_or("no target directory")?;
    let home = target.join("rebalancer");
    let python = home.join("bin/python");
    let runs = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_done = |command: &mut Command| runs(command).is_ok_and(|status| status.success());
    if !is_done(Command::new(&python).args(["-c", "import rebalancer"])) {
        let new_enough = "import sys, venv; sys.exit(sys.version_info < (3, 12))";
        let base = pythons().into_iter().find(|path| is_done(Command::new(path).args(["-c", new_enough])));
        let base = base.ok_or_else(|| format!("no Python 3.12 is here; install one, or name one in {PYTHON}"))?;
        let made = is_done(Command::new(base).args(["-m", "venv"]).arg(&home))
            && is_done(Command::new(&python).args(["-m", "pip", "install", "--quiet", PEER]));
        if !made {
            return Err(format!("{PEER} cannot be installed into {}", home.display()));
        }
    }
    Ok(python.display().to_string())
}

/// Where a Python may be: on the path, or among those that pyenv keeps, whose names on the path are silent about most of them.
fn pythons() -> Vec<PathBuf> {
    let on_path = ["python3", "python3.14", "python3.13", "python3.12"].map(PathBuf::from);
    let pyenv =
        std::env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".pyenv")));
    let kept = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok()).into_iter().flatten().flatten();
    on_path.into_iter().chain(kept.map(|version| version.path().join("bin/python3"))).collect()
}

/// Runs the peer on the same start; gives where it has put the tenants, its seconds and its moves.
fn rebalancer(
    document: &FleetDocument,
    sizes: &[[f64; 3]],
    formulas: &[u8],
) -> Result<(FleetDocument, f64, usize), String> {
    let python = python()?;
    let capacity = document.cells[0].capacity;
    let input = json!({
        "seconds": SECONDS,
        "moves": MOVES,
        "formulas": formulas,
        "capacity": [capacity.cpu, capacity.connections, capacity.storage],
        "cells": document.cells.iter().map(|cell| &cell.id).collect::<Vec<_>>(),
        "tenants": document.tenants.iter().zip(sizes).map(|(of, size)| json!([of.id, of.cell, size])).collect::<Vec<_>>(),
    });
    let mut child = Command::new(&python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{python} does not start: {error}"))?;
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("it has failed: {}", said.lines().last().unwrap_or("no word")));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let answer: serde_json::Value = serde_json::from_str(said.lines().last().unwrap_or_default())
        .map_err(|error| format!("its answer makes no sense: {error}"))?;
    let mut theirs = document.clone();
    let mut moves = 0;
    for tenant in &mut theirs.tenants {
        let cell = answer["assignment"][&tenant.id].as_str().ok_or("its answer lacks a tenant")?;
        moves += usize::from(cell != tenant.cell);
        cell.clone_into(&mut tenant.cell);
    }
    Ok((theirs, answer["seconds"].as_f64().ok_or("its answer lacks its time")?, moves))
}
