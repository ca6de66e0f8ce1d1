//! A cell with places, a queue of its own that knows nothing of tenants, and clients that ask for more or for less than it
//! can do: in simulated time, one event after the other, so that a minute of it takes milliseconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::{Adaptive, LimitRange};
use crate::fair::meter::Meter;
use crate::moment::{Moment, nanos};

/// Requests that wait before the cell, at the most; what comes then is turned away.
const QUEUE_MAX: usize = 64;

/// How long the cell works on a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Even(Duration),
    /// Lognormal with this mean and this standard deviation of the logarithm.
    Uneven(Duration, f64),
}

/// How often somebody asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Demand {
    /// So many times a second, evenly.
    Even(f64),
    /// So many times a second, by chance.
    Chance(f64),
}

/// What was seen of a while.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The limit at the end of each millisecond, probes included.
    pub(super) limits: Vec<u32>,
    pub(super) answered: u64,
    pub(super) refused: u64,
    /// Of what was answered, how long it had waited for its turn.
    pub(super) waited: Vec<Duration>,
    pub(super) lasted: Duration,
}

impl Seen {
    /// Answers a second.
    pub(super) fn goodput(&self) -> f64 {
        self.answered as f64 / self.lasted.as_secs_f64()
    }

    /// The limit that half of the time was below.
    pub(super) fn usual_limit(&self) -> u32 {
        self.limit_at(50)
    }

    /// The limit below which the time was to so many per cent.
    pub(super) fn limit_at(&self, per_cent: usize) -> u32 {
        let mut sorted = self.limits.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() - 1) * per_cent / 100]
    }
}

/// A cell behind its limit.
pub(super) struct Simulation {
    pub(super) places: usize,
    pub(super) work: Work,
    pub(super) demand: Demand,
    now: u64,
    next_request: u64,
    /// When those are done that the cell works on, and when they were sent.
    at_work: BinaryHeap<Reverse<(u64, u64)>>,
    /// When those were sent that wait in the cell.
    in_cell: VecDeque<u64>,
    /// When those came that wait here.
    here: VecDeque<u64>,
    limit: u32,
    meter: Meter,
    dice: u64,
}

impl Simulation {
    pub(super) fn new(range: LimitRange, places: usize, work: Work, demand: Demand) -> Self {
        let adaptive = Adaptive::new(range);
        Self {
            places,
            work,
            demand,
            now: 0,
            next_request: 0,
            at_work: BinaryHeap::new(),
            in_cell: VecDeque::new(),
            here: VecDeque::new(),
            limit: adaptive.limit(),
            meter: Meter::new(adaptive, Moment(0)),
            dice: 7,
        }
    }

    fn chance(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn work_nanos(&mut self) -> u64 {
        match self.work {
            Work::Even(work) => nanos(work),
            Work::Uneven(mean, sigma) => {
                let (one, other) = (1.0 - self.chance(), self.chance());
                let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
                nanos(mean.mul_f64((sigma * normal - sigma * sigma / 2.0).exp()))
            }
        }
    }

    fn until_next_request(&mut self) -> u64 {
        match self.demand {
            Demand::Even(rate) => nanos(Duration::from_secs_f64(1.0 / rate)),
            Demand::Chance(rate) => nanos(Duration::from_secs_f64(-(1.0 - self.chance()).ln() / rate)),
        }
    }

    fn in_flight(&self) -> usize {
        self.at_work.len() + self.in_cell.len()
    }

    /// Lets in whom there is room for, and gives the cell's places to those that wait in it.
    fn go_on(&mut self, seen: &mut Seen) {
        while self.in_flight() < self.limit as usize {
            let Some(came) = self.here.pop_front() else { break };
            seen.waited.push(Duration::from_nanos(self.now - came));
            self.in_cell.push_back(self.now);
            self.meter.saw(self.in_flight() as u64);
        }
        while self.at_work.len() < self.places {
            let Some(sent) = self.in_cell.pop_front() else { break };
            let done = self.now + self.work_nanos();
            self.at_work.push(Reverse((done, sent)));
        }
    }

    pub(super) fn is_finding_out(&self) -> bool {
        self.meter.is_finding_out()
    }

    /// A while of it.
    pub(super) fn run(&mut self, lasting: Duration) -> Seen {
        let mut seen = Seen { lasted: lasting, ..Seen::default() };
        let (began, end) = (self.now, self.now + nanos(lasting));
        loop {
            let done = self.at_work.peek().map_or(u64::MAX, |Reverse((done, _))| *done);
            let next = done.min(self.next_request).min(end);
            let ticks = usize::try_from((next - began) / 1_000_000).unwrap_or(usize::MAX);
            seen.limits.resize(ticks, self.limit);
            self.now = next;
            if next == end {
                return seen;
            }
            if next == done {
                let Some(Reverse((_, sent))) = self.at_work.pop() else { continue };
                self.go_on(&mut seen);
                seen.answered += 1;
                self.meter.answered(Duration::from_nanos(next - sent));
                if let Some(limit) = self.meter.end_of_window(Moment(next), self.in_flight() as u64) {
                    self.limit = limit;
                }
            } else {
                self.next_request = next + self.until_next_request();
                if !self.here.is_empty() || self.in_flight() >= self.limit as usize {
                    self.meter.crowded();
                }
                if self.here.len() < QUEUE_MAX { self.here.push_back(next) } else { seen.refused += 1 }
            }
            self.go_on(&mut seen);
        }
    }
}
