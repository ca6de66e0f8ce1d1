//! Looks for a cheaper assignment: a process moves, two change places, or several go one after the other (`chain.rs`).
//! What costs more is taken as well, the less likely the more it costs and the later it is (annealing): the cost has many
//! parts, and going down alone ends early. The last part of the search only goes down.
//!
//! Two things have a price on the way. Services that need each other have to move together, so a process may lack a
//! neighbor: the price rises as long as any lacks one and falls as long as none does, and only what lacks nothing is
//! kept. And what has moved is in flight, which takes room on two machines; that room is scarce, and while it is hot
//! everything would be moved for nothing and nobody could move any more. Its price falls with the heat.

use super::chain::Chain;
use super::instance::Instance;
use super::state::{More, State};
use crate::dice::Dice;

/// The heat at the beginning and at the end, by what an average process would cost above the safety capacity.
const WARM: f64 = 0.3;
const COLD: f64 = 2e-4;
/// The part of the search in which it gets colder; after that nothing that costs more is taken.
const COOLING: f64 = 0.95;
/// After so many looks it gets colder, and the price of a lacking neighbor is another one.
const LOOKS_EACH: u64 = 2_000;
const PRICE_STEP: f64 = 1.03;
/// A price, by the heat: the first one and the lowest.
const PRICE_FIRST: f64 = 3.0;
const PRICE_LEAST: f64 = 2.0;
/// The price of an average process in flight, by the heat.
const IN_FLIGHT: f64 = 1.5;
/// A price at which none that brings anybody to lack a neighbor is taken.
const DEAR: f64 = 1e15;
/// The parts of all looks: two change places, all who depend on each other go together, room is made; else one moves.
const EXCHANGES: f64 = 0.5;
const TOGETHER: f64 = 0.05;
const ROOM: f64 = 0.2;
/// So many exchanges are with one of about the same size, so many places away in that order.
const ALIKE: f64 = 0.3;
const PLACES: usize = 40;
/// Odds are drawn from so many.
const DRAWS: usize = 4_096;

/// Dice that choose among few.
pub(super) struct Chance<'d>(&'d mut Dice);

impl Chance<'_> {
    /// One of a few: a product instead of a division.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (((self.0.next() >> 32) * bound as u64) >> 32) as usize
    }

    pub(super) fn pick(&mut self, of: &[usize]) -> usize {
        of[self.below(of.len())]
    }

    pub(super) fn any(&mut self, of: &[usize]) -> Option<usize> {
        (!of.is_empty()).then(|| self.pick(of))
    }

    pub(super) fn even(&mut self) -> bool {
        self.0.next() & 1 == 0
    }
}

/// What decides whether a change is kept.
#[derive(Clone, Copy)]
pub(super) struct Odds {
    heat: f64,
    /// Of a lacking neighbor.
    price: f64,
    /// No change that costs more than this is kept.
    most: f64,
}

impl Odds {
    pub(super) fn favor(&self, more: More) -> bool {
        let prices = self.price * more.lonely as f64 + self.heat * IN_FLIGHT * more.in_flight;
        more.cost as f64 + prices <= self.most
    }
}

/// A search under way.
struct Search<'i> {
    state: State<'i>,
    chain: Chain,
    /// Processes in the order of their size, and the place of each in that order.
    order: Vec<usize>,
    place: Vec<usize>,
    has_needs: bool,
    best: (Vec<usize>, i64),
}

impl<'i> Search<'i> {
    fn new(instance: &'i Instance) -> Self {
        let state = State::new(instance);
        let count = instance.processes.len();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&process| size(instance, process));
        let mut place = vec![0; count];
        order.iter().enumerate().for_each(|(at, &process)| place[process] = at);
        let best = (state.at.clone(), state.cost);
        let has_needs = instance.services.iter().any(|service| !service.needs.is_empty());
        Self { state, chain: Chain::default(), order, place, has_needs, best }
    }

    fn look(&mut self, chance: &mut Chance<'_>, odds: &Odds) {
        let one = chance.below(self.order.len());
        let kind = chance.0.share();
        let state = &mut self.state;
        if kind < EXCHANGES {
            let other = self.partner(one, chance);
            let state = &mut self.state;
            if let Some(more) = state.exchange(one, other).filter(|more| odds.favor(*more)) {
                let (here, there) = (state.at[one], state.at[other]);
                state.put(one, there);
                state.put(other, here);
                state.add(more);
            }
        } else if kind < EXCHANGES + TOGETHER && self.has_needs {
            self.chain.together(state, one, chance, odds);
        } else if kind > 1.0 - ROOM {
            self.chain.make_room(state, one, chance, odds);
        } else {
            let target = chance.pick(&state.reach[one]);
            if let Some(more) = state.shift(one, target).filter(|more| odds.favor(*more)) {
                state.put(one, target);
                state.add(more);
            }
        }
        if self.state.lonely == 0 && self.state.cost < self.best.1 {
            self.best.1 = self.state.cost;
            self.best.0.clone_from(&self.state.at);
        }
    }

    /// Anybody, or one of about the same size.
    fn partner(&self, one: usize, chance: &mut Chance<'_>) -> usize {
        let count = self.order.len();
        if !chance.0.chance(ALIKE) {
            return chance.below(count);
        }
        let (place, away) = (self.place[one], 1 + chance.below(PLACES));
        self.order[if chance.even() { place.saturating_sub(away) } else { (place + away).min(count - 1) }]
    }
}

/// What a process would cost if all of it were above the safety capacity.
fn size(instance: &Instance, process: usize) -> i64 {
    let uses = &instance.processes[process].uses;
    uses.iter().zip(&instance.resources).map(|(uses, of)| uses * of.weight).sum()
}

/// Searches for so many looks; gives the cheapest that was found, and what it costs.
pub(super) fn search(instance: &Instance, looks: u64, dice: &mut Dice) -> (Vec<usize>, i64) {
    let mut search = Search::new(instance);
    let mut chance = Chance(dice);
    let draws: Vec<f64> = (0..DRAWS).map(|at| -((at as f64 + 0.5) / DRAWS as f64).ln()).collect();
    let count = instance.processes.len();
    let usual = (0..count).map(|process| size(instance, process) as f64).sum::<f64>() / count.max(1) as f64;
    let times = (looks / LOOKS_EACH).max(1);
    let cooling = (times as f64 * COOLING).ceil();
    let colder = (COLD / WARM).powf(1.0 / cooling);
    let mut heat = usual * WARM;
    let mut price = heat * PRICE_FIRST;
    for time in 0..times {
        for _ in 0..LOOKS_EACH {
            let most = heat * draws[chance.below(DRAWS)];
            search.look(&mut chance, &Odds { heat, price, most });
        }
        if (time as f64) < cooling {
            heat *= colder;
            price = if search.state.lonely > 0 { price * PRICE_STEP } else { price / PRICE_STEP };
            price = price.clamp(heat * PRICE_LEAST, DEAR);
        } else {
            (heat, price) = (f64::MIN_POSITIVE, DEAR);
        }
    }
    search.best
}
