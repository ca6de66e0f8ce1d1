//! `create`, `delete`, `cordon`, `uncordon`: change the fleet.

use cell_client::wire;
use cell_model::{CellState, NewCell, NewTenant};

use super::Control;
use crate::cli::{Create, Delete, OfCell};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::view::{CellView, TenantView};

pub(super) async fn create(control: Control, create: Create) -> Result<Exit, Failure> {
    match create {
        Create::Tenant { name, cell, tier, residency } => {
            let tenant = NewTenant { id: name, cell, tier: tier.into(), residency };
            let made = control.client.create_tenant(tenant, control.write()).await?;
            control.print_list(&[TenantView::from(made)]);
        }
        Create::Cell { name, agent, gates, region, residency } => {
            let cell = NewCell { id: name, gates, agent, region, residency };
            let made = control.client.create_cell(cell, control.write()).await?;
            control.print_list(&[CellView::from(wire::Cell::from(&made))]);
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn delete(control: Control, delete: Delete) -> Result<Exit, Failure> {
    let Delete::Tenant { name, yes } = delete;
    if !yes {
        match console::confirms(&format!("Delete tenant {name} with all its data, for good?")) {
            Some(true) => {}
            Some(false) => {
                console::note("nothing was deleted");
                return Ok(Exit::Failed);
            }
            None => {
                let message = format!("deleting tenant {name} cannot be undone and nobody can be asked here");
                return Err(Failure::usage(message, format!("`cellctl delete tenant {name} --yes`")));
            }
        }
    }
    let tenant = control.client.delete_tenant(&name, control.write()).await?;
    control.print_list(&[TenantView::from(tenant)]);
    Ok(Exit::Done)
}

pub(super) async fn set_state(control: Control, of: OfCell, state: CellState) -> Result<Exit, Failure> {
    let OfCell::Cell { name } = of;
    let cell = control.client.set_cell_state(&name, state, control.write()).await?;
    control.print_list(&[CellView::from(wire::Cell::from(&cell))]);
    Ok(Exit::Done)
}
