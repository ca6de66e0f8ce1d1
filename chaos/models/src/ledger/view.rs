//! The fleet as the production `decide` sees it.

use cell_model::{
    CellId, CellRecord, FleetView, Limits, Lineage, MoveId, MoveRecord, Revision, TenantId, TenantRecord,
};

use super::Ledger;

impl FleetView for Ledger {
    fn lineage(&self) -> Lineage {
        Lineage(1)
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn limits_revision(&self) -> Revision {
        Revision::default()
    }

    fn cell(&self, id: &CellId) -> Option<&CellRecord> {
        self.cells.iter().find(|cell| cell.id == *id)
    }

    fn cells(&self) -> Box<dyn Iterator<Item = &CellRecord> + '_> {
        Box::new(self.cells.iter())
    }

    fn tenant(&self, id: &TenantId) -> Option<&TenantRecord> {
        (self.record.id == *id).then_some(&self.record)
    }

    fn tenants_on(&self, cell: &CellId) -> u64 {
        u64::from(self.record.owner == *cell)
    }

    fn moving(&self) -> Box<dyn Iterator<Item = (MoveId, &TenantRecord)> + '_> {
        Box::new(self.record.movement.iter().map(|movement| (movement.id, &self.record)))
    }

    fn moving_count(&self) -> usize {
        self.moving().count()
    }

    fn tenant_of_move(&self, id: MoveId) -> Option<&TenantRecord> {
        self.moving().find(|(moving, _)| *moving == id).map(|(_, record)| record)
    }

    fn unreconciled(&self) -> bool {
        false
    }

    fn ended_move(&self, _id: MoveId) -> Option<&MoveRecord> {
        // Only asked for moves that an operator names, and here it names the one under way.
        None
    }
}
