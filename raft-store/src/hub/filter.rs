//! What of all changes a watcher wants.

use std::sync::Arc;

use cell_model::{CellId, Change, Fleet, FleetView, TenantId};

use super::Committed;

/// What is watched. Everything that is set must fit; where nothing is set, everything is watched.
///
/// A watcher of a cell is told of a tenant, too, by the change with which it goes elsewhere, and not of what becomes of it
/// afterwards. It holds exactly the tenants of which the last that it was told is that the cell owns them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// This tenant only.
    pub tenant: Option<TenantId>,
    /// Tenants whose names begin so. Empty: all.
    pub prefix: String,
    /// Tenants of this cell, moves from and to it, and of all cells only this one.
    pub cell: Option<CellId>,
}

/// A tenant that has gone from a cell to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Which.
    pub tenant: TenantId,
    /// From where.
    pub from: CellId,
}

/// Who goes elsewhere with `changes`, as seen by what was before them.
pub(crate) fn departures(before: &Fleet, changes: &[Change]) -> Vec<Departure> {
    let gone = |change: &Change| {
        let Change::Tenant(after) = change else { return None };
        let owner = &before.tenant(&after.id)?.owner;
        (*owner != after.owner).then(|| Departure { tenant: after.id.clone(), from: owner.clone() })
    };
    changes.iter().filter_map(gone).collect()
}

impl Filter {
    /// Whether nothing is left out.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.tenant.is_none() && self.prefix.is_empty() && self.cell.is_none()
    }

    fn names(&self, tenant: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|only| only == tenant) && tenant.as_str().starts_with(&self.prefix)
    }

    fn is_of_cell(&self, fits: impl FnOnce(&CellId) -> bool) -> bool {
        self.cell.as_ref().is_none_or(fits)
    }

    fn fits(&self, change: &Change, departures: &[Departure]) -> bool {
        match change {
            Change::Tenant(record) => {
                let leaves =
                    |cell: &CellId| departures.iter().any(|gone| gone.tenant == record.id && gone.from == *cell);
                self.names(&record.id) && self.is_of_cell(|cell| record.owner == *cell || leaves(cell))
            }
            Change::Cell(record) => self.is_of_cell(|cell| record.id == *cell),
            Change::MoveEnded(record) => {
                let ends = [&record.movement.source, &record.movement.target];
                self.names(&record.tenant) && self.is_of_cell(|cell| ends.contains(&cell))
            }
            Change::Limits(_) | Change::Reconciled(_) => self.is_everything(),
        }
    }

    /// What is wanted of one command.
    pub(super) fn of(&self, committed: &Committed) -> impl Iterator<Item = Change> {
        let fits = move |change: &&Change| self.fits(change, &committed.departures);
        committed.changes.iter().filter(fits).cloned()
    }

    /// What is wanted of some commands; those of which nothing is are left out.
    pub(super) fn of_all(&self, committed: Vec<Arc<Committed>>) -> Vec<Arc<Committed>> {
        if self.is_everything() {
            return committed;
        }
        let wanted = |one: Arc<Committed>| {
            let changes: Vec<Change> = self.of(&one).collect();
            let departures = Vec::new();
            (!changes.is_empty()).then(|| Arc::new(Committed { revision: one.revision, changes, departures }))
        };
        committed.into_iter().filter_map(wanted).collect()
    }

    /// What is wanted of records as they stand.
    pub(super) fn standing(&self, change: &Change) -> bool {
        self.fits(change, &[])
    }

    /// Tenants that are wanted among the next `count` behind `after`, and behind whom to go on; none after the last.
    pub(super) fn tenants(
        &self,
        fleet: &Fleet,
        after: Option<&TenantId>,
        count: usize,
    ) -> (Vec<Change>, Option<TenantId>) {
        let of_one = |id: &TenantId| fleet.shared_tenant(id).map(Change::Tenant);
        if let Some(only) = &self.tenant {
            return (of_one(only).into_iter().filter(|change| self.standing(change)).collect(), None);
        }
        // Between a name and the first one that goes on with '-' there is no other.
        let stem = TenantId::new(self.prefix.trim_end_matches('-')).ok().filter(|_| after.is_none());
        let own = stem.as_ref().filter(|stem| stem.as_str() == self.prefix).and_then(of_one);
        let mut records: Vec<Change> = own.into_iter().filter(|change| self.standing(change)).collect();
        let (mut looked_at, mut last) = (0, None);
        for record in fleet.tenants_after(after.or(stem.as_ref())).take(count) {
            if !record.id.as_str().starts_with(&self.prefix) {
                return (records, None);
            }
            (looked_at, last) = (looked_at + 1, Some(&record.id));
            let change = Change::Tenant(Arc::clone(record));
            if self.standing(&change) {
                records.push(change);
            }
        }
        (records, last.filter(|_| looked_at == count).cloned())
    }
}
