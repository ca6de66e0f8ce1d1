//! A fleet as it would be: after a plan, after a loss, with other demands. Nothing here asks whether it may be.

use cell_model::{CellState, UnixMillis};

use super::{AMOUNT_MAX, CellIx, Demands, Fleet, NONE, Profile, SCALE, TenantIx};
use crate::plan::{PlannedMove, Wave};

impl Fleet {
    /// The fleet as it is when these waves have run. Moves of tenants or cells that are not in it are passed over.
    #[must_use]
    pub fn after(&self, waves: &[Wave]) -> Self {
        let mut fleet = self.clone();
        waves.iter().flat_map(|wave| &wave.moves).for_each(|planned| fleet.follow(planned));
        fleet
    }

    fn follow(&mut self, planned: &PlannedMove) {
        let tenant = self.find_tenant(planned.tenant.as_str());
        let target = self.find_cell(planned.target.as_str());
        if let (Some(tenant), Some(target)) = (tenant, target) {
            self.set_home(tenant, Some(target));
        }
    }

    /// Gives a tenant a home, or none; a move of it that is under way is forgotten.
    pub(crate) fn set_home(&mut self, tenant: TenantIx, cell: Option<CellIx>) {
        let of = &mut self.tenants[tenant.index()];
        of.cell = cell.map_or(NONE, |cell| cell.0);
        (of.elsewhere, of.has_arrived) = (NONE, false);
        self.standing.take();
    }

    pub(crate) fn set_state(&mut self, cell: CellIx, state: CellState) {
        self.cells[cell.index()].state = state;
    }

    pub(crate) fn set_cooldown(&mut self, tenant: TenantIx, until: UnixMillis) {
        self.tenants[tenant.index()].cooldown_until = until;
    }

    /// Changes every demand. Amounts are rounded up to whole thousandths and kept within what a fleet may hold.
    pub(crate) fn change_demands(&mut self, mut change: impl FnMut(TenantIx, &mut Profile)) {
        let mut demands = Demands::with_capacity(self.tenants.len());
        let whole = |value: &mut f64| *value = value.ceil().clamp(0.0, AMOUNT_MAX * SCALE);
        for tenant in self.tenants() {
            let mut profile = self.demand(tenant);
            change(tenant, &mut profile);
            profile.mean.iter_mut().chain(&mut profile.deviation).for_each(whole);
            demands.push(&profile);
        }
        self.demands = demands;
        self.standing.take();
    }
}
