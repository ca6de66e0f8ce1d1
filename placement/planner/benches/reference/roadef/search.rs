//! Looks for a cheaper assignment: a process moves, or two change places. What costs more is taken as well, the less
//! likely the more it costs and the later it is (annealing): the cost has many parts, and going down alone ends early.
//! The last part of the search only goes down.
//!
//! Services that need each other have to move together. So on the way a process may lack a neighbor, for a price: it
//! rises as long as any lacks one and falls as long as none does, and only what lacks nothing is kept.

use super::instance::Instance;
use super::state::{More, State};
use crate::dice::Dice;

/// Changes that are asked for before the search, to see what a change costs.
const TRIED: usize = 20_000;
/// How much more is likely to be taken at the beginning, by what a change costs on average; and at the end.
const WARM: f64 = 3.0;
const COLD: f64 = 3e-3;
/// The part of the search in which it gets colder; after that nothing that costs more is taken.
const COOLING: f64 = 0.85;
/// After so many looks it gets colder, and the price of a lacking neighbor is another one.
const LOOKS_EACH: u64 = 1_000;
const PRICE_STEP: f64 = 1.03;
/// A price, by what a change costs on average, at which none that brings anybody to lack a neighbor is taken.
const DEAR: f64 = 1e3;

/// One change: who goes where, and what that adds.
struct Looked {
    moves: [(usize, usize); 2],
    count: usize,
    more: More,
}

fn look(state: &mut State<'_>, processes: usize, machines: usize, dice: &mut Dice) -> Option<Looked> {
    let one = dice.below(processes);
    if dice.chance(0.5) {
        let target = dice.below(machines);
        let more = state.shift(one, target)?;
        return Some(Looked { moves: [(one, target); 2], count: 1, more });
    }
    let other = dice.below(processes);
    let more = state.exchange(one, other)?;
    Some(Looked { moves: [(one, state.at[other]), (other, state.at[one])], count: 2, more })
}

/// Searches for so many looks; gives the cheapest that was found, and what it costs.
pub(super) fn search(instance: &Instance, looks: u64, dice: &mut Dice) -> (Vec<usize>, i64) {
    let (processes, machines) = (instance.processes.len(), instance.machines.len());
    let mut state = State::new(instance);
    let mut best = (state.at.clone(), state.cost);
    let mut usual: Vec<f64> = Vec::new();
    for _ in 0..TRIED {
        let looked = look(&mut state, processes, machines, dice);
        usual.extend(looked.filter(|of| of.more.cost != 0).map(|of| of.more.cost.abs() as f64));
    }
    let usual = usual.iter().sum::<f64>() / usual.len().max(1) as f64;
    let times = (looks / LOOKS_EACH).max(1);
    let cooling = (times as f64 * COOLING).ceil();
    let colder = (COLD / WARM).powf(1.0 / cooling);
    let mut heat = usual * WARM;
    let mut price = usual;
    for time in 0..times {
        for _ in 0..LOOKS_EACH {
            let Some(Looked { moves, count, more }) = look(&mut state, processes, machines, dice) else { continue };
            let costs = more.cost as f64 + price * more.lonely as f64;
            if costs <= 0.0 || dice.share() < (-costs / heat).exp() {
                state.make(&moves[..count], more);
                if state.lonely == 0 && state.cost < best.1 {
                    best.1 = state.cost;
                    best.0.clone_from(&state.at);
                }
            }
        }
        if (time as f64) < cooling {
            heat *= colder;
            price =
                if state.lonely > 0 { price * PRICE_STEP } else { price / PRICE_STEP }.clamp(heat, usual * DEAR);
        } else {
            (heat, price) = (f64::MIN_POSITIVE, usual * DEAR);
        }
    }
    best
}
