//! Who may work outside of moves, and who waits for a turn: as many tenants as there are may have something to be done at one
//! cell, and that cell may be away.
//!
//! ```text
//! pending ──room──► runs ──done, or came to nothing──► gone, or behind all who wait
//!    └─none──► waits, by name ──a turn──► runs
//!         └─too many names──► stays in the table; looked for there, from the first of them on, when nobody waits any more
//! ```
//! Pure. What belongs to a move is not counted here: the store lets no more moves run than its limits say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cell_model::{CellId, Effect, TenantId};

/// Names that wait at one place; those beyond them stay in the table.
const NAMES_MAX: usize = 4_096;

/// Where a line forms.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A cell that may be away.
    At(CellId),
    /// Nothing but time is waited for.
    Clock,
}

impl Place {
    /// None: it belongs to a move.
    pub(crate) fn of(effect: &Effect) -> Option<Self> {
        match effect {
            Effect::Grant { cell, .. }
            | Effect::Revoke { cell }
            | Effect::Retire { cell, .. }
            | Effect::Reclaim { cell, .. }
            | Effect::Quarantine { cell, .. } => Some(Self::At(cell.clone())),
            Effect::AwaitRetention { .. } => Some(Self::Clock),
            _ => None,
        }
    }
}

/// Whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Of(Place, TenantId),
    /// Nobody waits here by name, and there are more in the table: these first, then those before them.
    From(TenantId),
}

#[derive(Debug, Default)]
struct Line {
    running: usize,
    waiting: VecDeque<TenantId>,
    names: BTreeSet<TenantId>,
    /// The first that stayed in the table.
    beyond: Option<TenantId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lines {
    at_cell_max: usize,
    at_clock_max: usize,
    of: BTreeMap<Place, Line>,
    /// Lines that may have somebody whose turn it is.
    moved: BTreeSet<Place>,
}

impl Lines {
    pub(crate) const fn new(at_cell_max: usize, at_clock_max: usize) -> Self {
        Self { at_cell_max, at_clock_max, of: BTreeMap::new(), moved: BTreeSet::new() }
    }

    const fn room(&self, place: &Place) -> usize {
        match place {
            Place::At(_) => self.at_cell_max,
            Place::Clock => self.at_clock_max,
        }
    }

    /// Whether it runs now; else it waits. `turn`: it was its turn.
    pub(crate) fn enters(&mut self, place: &Place, tenant: &TenantId, turn: bool) -> bool {
        let room = self.room(place);
        let line = self.of.entry(place.clone()).or_default();
        let is_first = turn || (line.waiting.is_empty() && line.beyond.is_none());
        if is_first && line.running < room {
            line.running += 1;
            return true;
        }
        if line.names.contains(tenant) {
            return false;
        }
        if line.beyond.is_none() && line.waiting.len() < NAMES_MAX {
            line.names.insert(tenant.clone());
            line.waiting.push_back(tenant.clone());
        } else if line.beyond.is_none() {
            line.beyond = Some(tenant.clone());
        }
        false
    }

    /// It runs no more.
    pub(crate) fn leaves(&mut self, effect: &Effect) {
        if let Some(place) = Place::of(effect)
            && let Some(line) = self.of.get_mut(&place)
        {
            line.running = line.running.saturating_sub(1);
            self.moved.insert(place);
        }
    }

    /// Takes the next one out of its line. Asked until there is none, and each time somebody has left.
    pub(crate) fn next(&mut self) -> Option<Turn> {
        while let Some(place) = self.moved.first().cloned() {
            let room = self.room(&place);
            let line = self.of.entry(place.clone()).or_default();
            if line.running < room {
                if let Some(tenant) = line.waiting.pop_front() {
                    line.names.remove(&tenant);
                    return Some(Turn::Of(place, tenant));
                }
                if let Some(first) = line.beyond.take() {
                    return Some(Turn::From(first));
                }
                if line.running == 0 {
                    self.of.remove(&place);
                }
            }
            self.moved.remove(&place);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(cell: &str) -> Place {
        Place::At(CellId::new(cell).unwrap())
    }

    fn work(cell: &str) -> Effect {
        Effect::Revoke { cell: CellId::new(cell).unwrap() }
    }

    fn tenant(number: usize) -> TenantId {
        TenantId::new(format!("t-{number:05}")).unwrap()
    }

    /// A table of tenants of which each has something to be done at its cell that comes to nothing again and again.
    struct Table {
        lines: Lines,
        tenants: BTreeMap<TenantId, Place>,
        running: VecDeque<TenantId>,
    }

    impl Table {
        fn new(count: usize) -> Self {
            let tenants = (0..count).map(|number| (tenant(number), place("away"))).collect();
            let mut table = Self { lines: Lines::new(3, 1), tenants, running: VecDeque::new() };
            table.look_from(&tenant(0));
            table
        }

        fn look_at(&mut self, tenant: &TenantId, turn: Option<&Place>) {
            let place = &self.tenants[tenant];
            if !self.running.contains(tenant) && self.lines.enters(place, tenant, turn == Some(place)) {
                self.running.push_back(tenant.clone());
            }
        }

        fn look_from(&mut self, first: &TenantId) {
            let before = self.tenants.range(..first.clone());
            let all: Vec<TenantId> =
                self.tenants.range(first.clone()..).chain(before).map(|(tenant, _)| tenant.clone()).collect();
            for tenant in all {
                self.look_at(&tenant, None);
            }
        }

        /// The oldest task comes to nothing. Whose it was.
        fn fail_one(&mut self) -> TenantId {
            let failed = self.running.pop_front().unwrap();
            self.lines.leaves(&work("away"));
            self.look_at(&failed, None);
            while let Some(turn) = self.lines.next() {
                match turn {
                    Turn::Of(place, tenant) => self.look_at(&tenant, Some(&place)),
                    Turn::From(first) => self.look_from(&first),
                }
            }
            failed
        }
    }

    #[test]
    fn whoever_comes_to_nothing_goes_behind_all_who_wait_and_those_in_the_table_have_their_turns_too() {
        const COUNT: usize = 2 * NAMES_MAX + 100;
        let mut table = Table::new(COUNT);
        let mut tried = BTreeMap::<TenantId, usize>::new();
        for _ in 0..4 * COUNT {
            *tried.entry(table.fail_one()).or_default() += 1;
            assert_eq!(table.running.len(), 3, "as many as may, and no more");
            let line = &table.lines.of[&place("away")];
            assert!(line.waiting.len() <= NAMES_MAX && line.names.len() == line.waiting.len());
        }
        assert_eq!(tried.len(), COUNT, "nobody is passed by");
        let (least, most) = (tried.values().min().unwrap(), tried.values().max().unwrap());
        assert!(*least >= 2 && *most <= 6, "{least} to {most} turns");
    }

    #[test]
    fn a_cell_that_is_away_is_in_nobody_elses_way() {
        let mut table = Table::new(NAMES_MAX + 50);
        let other = TenantId::new("z").unwrap();
        table.tenants.insert(other.clone(), place("here"));
        table.look_at(&other, None);
        assert!(table.running.contains(&other));
    }

    #[test]
    fn who_has_nothing_to_do_any_more_gives_the_turn_to_the_next() {
        let mut lines = Lines::new(1, 1);
        let at = place("a");
        assert!(lines.enters(&at, &tenant(0), false));
        assert!(!lines.enters(&at, &tenant(1), false) && !lines.enters(&at, &tenant(2), false));
        assert!(!lines.enters(&at, &tenant(2), false), "it waits already");
        assert_eq!(lines.next(), None, "nobody has left");
        lines.leaves(&work("a"));
        assert_eq!(lines.next(), Some(Turn::Of(at.clone(), tenant(1))));
        assert_eq!(lines.next(), Some(Turn::Of(at.clone(), tenant(2))), "the first had nothing to do");
        assert!(lines.enters(&at, &tenant(2), true));
        assert_eq!(lines.next(), None);
        lines.leaves(&work("a"));
        assert_eq!(lines.next(), None);
        assert!(lines.of.is_empty(), "nothing is kept of a place where nobody is");
    }
}
