//! `make bench-placement`: the planner on reference inputs, beside its peers, in one run.
//!
//! * `fleets` makes the reference fleets, the same from every seed; `packing` makes inputs with a known best answer.
//! * `peers` has the ways of choosing a cell that others use; `rebalancer` runs Meta's Rebalancer, where there is one.
//! * `traces` places on one day of real use and replays another; the traces are not part of the repository.
//! * `scale` is a million tenants on a thousand cells.
//! * `roadef` is the machine reassignment of ROADEF 2012, set A, by the planner's way of searching.
//!
//! Every result is judged by one judge: a [`cell_planner::Layout`] of where the tenants have ended up. Arguments:
//! `--out FILE` for the figures as JSON, `--quick` for a run of seconds, `--only PART` for one of scale,
//! fleets, packing, rebalance, traces, roadef. Environment: `CELLWAY_DATA`, the directory of
//! the traces; `CELLWAY_REBALANCER`, a Python that has the package `rebalancer` (without it, one is made below
//! `target`). What is left out is said. The exit code is 0 only if every figure holds what it must.

#![expect(clippy::print_stdout, reason = "its table is what it is for")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on has failed")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(clippy::cast_possible_truncation, reason = "whole numbers of cells and tenants, all of them small")]

mod dice;
mod fleets;
mod packing;
mod peers;
mod rebalance;
mod roadef;
mod scale;
mod traces;

use std::path::PathBuf;
use std::process::ExitCode;

use cell_figures::Figures;

/// A part by its name, and what measures it.
type Part<'a> = (&'a str, &'a dyn Fn(&mut Figures));

fn main() -> ExitCode {
    let said = Said::read(std::env::args().skip(1));
    let mut figures = Figures::default();
    let quick = said.quick;
    // The million first: how much memory it takes can be seen only while no part before it has left any behind.
    let parts: [Part<'_>; 6] = [
        ("scale", &|figures| scale::run(figures, quick)),
        ("fleets", &|figures| fleets::run(figures)),
        ("packing", &|figures| packing::run(figures)),
        ("rebalance", &|figures| rebalance::run(figures, quick)),
        ("traces", &|figures| traces::run(figures)),
        ("roadef", &|figures| roadef::run(figures, quick)),
    ];
    let known = |only: &String| parts.iter().any(|(name, _)| name == only);
    assert!(said.only.as_ref().is_none_or(known), "--only knows {:?}", parts.map(|(name, _)| name));
    for (_, part) in parts.iter().filter(|(name, _)| said.only.as_deref().is_none_or(|only| only == *name)) {
        part(&mut figures);
    }
    print!("{}", figures.table());
    if let Some(out) = said.out {
        figures.write(&out).expect("--out can be written");
        println!("figures: {}", out.display());
    }
    match figures.hold() {
        Ok(()) => ExitCode::SUCCESS,
        Err(missed) => {
            println!("{missed}");
            ExitCode::FAILURE
        }
    }
}

struct Said {
    out: Option<PathBuf>,
    quick: bool,
    only: Option<String>,
}

impl Said {
    fn read(mut words: impl Iterator<Item = String>) -> Self {
        let mut said = Self { out: None, quick: false, only: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--out" => said.out = Some(words.next().expect("--out FILE").into()),
                "--quick" => said.quick = true,
                "--only" => said.only = Some(words.next().expect("--only PART")),
                // What `cargo bench` adds by itself.
                "--bench" => {}
                other => panic!("{other} is not known: --out FILE, --quick, --only PART"),
            }
        }
        said
    }
}
