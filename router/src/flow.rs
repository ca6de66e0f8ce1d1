//! What all threads share of fairness and containment: the active tenants, and for each cell the way in, its breaker and
//! its budget.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cell_model::CellId;
use foldhash::fast::RandomState;
use papaya::HashMap;

use crate::contain::breaker::Breaker;
use crate::contain::budget::Budget;
use crate::contain::dependency::DependencyBreakers;
use crate::fair::scheduler::Scheduler;
use crate::fair::tenants::Tenants;
use crate::live::Live;
use crate::moment::Clock;

/// One cell, as requests get into it.
pub(crate) struct CellFlow {
    pub(crate) scheduler: Arc<Scheduler>,
    /// Of connections alone: what tenants' requests come to is theirs.
    pub(crate) breaker: Breaker,
    /// Of what its requests depend on, as far as that is declared.
    pub(crate) dependencies: DependencyBreakers,
    pub(crate) retries: Budget,
}

/// What all threads share of fairness and containment.
pub(crate) struct Flow {
    pub(crate) clock: Clock,
    pub(crate) tenants: Tenants,
    pub(crate) live: Arc<ArcSwap<Live>>,
    cells: HashMap<CellId, Arc<CellFlow>, RandomState>,
    /// Limits that a process before this one has found out: where cells begin.
    learnt: std::collections::BTreeMap<CellId, u32>,
}

/// How often tenants of whom nothing is worth keeping are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

impl Flow {
    /// `metered`: what tenants use is to be written down. `learnt`: limits that cells begin with.
    pub(crate) fn new(
        live: Live,
        clock: Clock,
        metered: bool,
        learnt: std::collections::BTreeMap<CellId, u32>,
    ) -> Arc<Self> {
        let live = Arc::new(ArcSwap::from_pointee(live));
        Arc::new(Self { clock, tenants: Tenants::new(metered), live, cells: HashMap::default(), learnt })
    }

    /// How many requests each cell may have at once now.
    pub(crate) fn limits(&self) -> Vec<(CellId, u32)> {
        self.cells.pin().iter().map(|(id, cell)| (id.clone(), cell.scheduler.limit())).collect()
    }

    /// The way into a cell. There are as many as there are cells in mappings that the control plane has signed.
    pub(crate) fn cell(&self, cell: &CellId) -> Arc<CellFlow> {
        let cells = self.cells.pin();
        if let Some(found) = cells.get(cell) {
            return Arc::clone(found);
        }
        let made = cells.get_or_insert_with(cell.clone(), || {
            let mut schedule = self.live.load().schedule;
            if let Some(learnt) = self.learnt.get(cell) {
                schedule.range.initial = *learnt;
            }
            let scheduler = Scheduler::new(schedule, self.clock.now());
            let (breaker, dependencies) = (Breaker::default(), DependencyBreakers::default());
            Arc::new(CellFlow { scheduler, breaker, dependencies, retries: Budget::default() })
        });
        Arc::clone(made)
    }

    pub(crate) fn for_each_cell(&self, mut each: impl FnMut(&CellId, &CellFlow)) {
        for (id, cell) in &self.cells.pin() {
            each(id, cell);
        }
    }

    /// Takes other options; requests on their way keep what they have.
    pub(crate) fn set_live(&self, live: Live) {
        let schedule = live.schedule;
        self.live.store(Arc::new(live));
        self.for_each_cell(|_, cell| cell.scheduler.set_options(schedule));
    }

    /// Forgets, again and again, what is not worth keeping.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.tenants.sweep(self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[tokio::test]
    async fn a_cell_begins_with_what_the_process_before_has_found_out() {
        let cell = |id: &str| CellId::new(id).unwrap();
        let learnt = [(cell("large"), 207)].into_iter().collect();
        let flow = Flow::new(Live::new(&Options::default()), Clock::start(), false, learnt);
        assert_eq!(flow.cell(&cell("large")).scheduler.limit(), 207);
        assert_eq!(
            flow.cell(&cell("other")).scheduler.limit(),
            Options::default().fairness.cell_concurrency_initial
        );
        let mut limits = flow.limits();
        limits.sort();
        assert_eq!(limits, [(cell("large"), 207), (cell("other"), 16)]);
    }
}
