//! `create`, `delete`, `cordon`, `uncordon`, `cell declare`, `tenant set`: change the fleet.

use cell_client::wire;
use cell_model::{CellId, CellState, Declaration, NewCell, NewTenant, TenantId, Tier};

use super::Control;
use crate::cli::{Create, Declare, Delete, OfCell};
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
        Create::Cell { name, agent, gates, region, residency, traits } => {
            let cell = NewCell { id: name, gates, agent, region, residency, traits: traits.into() };
            let made = control.client.create_cell(cell, control.write()).await?;
            control.print_list(&[CellView::from(wire::Cell::from(&made))]);
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn delete(control: Control, delete: Delete) -> Result<Exit, Failure> {
    let Delete::Tenant { name, yes } = delete;
    let question = format!("Delete tenant {name} with all its data, for good?");
    let unasked = format!("deleting tenant {name} cannot be undone and nobody can be asked here");
    if !yes && !is_confirmed(&question, &unasked, &format!("cellctl delete tenant {name} --yes"))? {
        return Ok(Exit::Failed);
    }
    let tenant = control.client.delete_tenant(&name, control.write()).await?;
    control.print_list(&[TenantView::from(tenant)]);
    Ok(Exit::Done)
}

/// Whether somebody who was asked wants it.
pub(super) fn is_confirmed(question: &str, unasked: &str, command: &str) -> Result<bool, Failure> {
    match console::confirms(question) {
        Some(true) => Ok(true),
        Some(false) => {
            console::note("nothing was changed");
            Ok(false)
        }
        None => Err(Failure::usage(unasked, format!("`{command}`"))),
    }
}

pub(super) async fn declare_dead(control: Control, name: CellId, yes: bool) -> Result<Exit, Failure> {
    let question = format!("Declare cell {name} dead? Nobody will wait for what it holds");
    let unasked = format!("whether cell {name} is dead cannot be told from here and nobody can be asked");
    if !yes && !is_confirmed(&question, &unasked, &format!("cellctl cell dead {name} --yes"))? {
        return Ok(Exit::Failed);
    }
    set_state(control, OfCell::Cell { name }, CellState::Dead).await
}

/// What is named is declared anew, and the whole printed.
pub(super) async fn declare(control: Control, asked: Declare) -> Result<Exit, Failure> {
    let (name, amounts) = (asked.name.clone(), asked.traits.capacity);
    let mut declaration = Declaration::from(asked);
    let mut write = control.write();
    if let Some(amounts) = amounts {
        // An amount that is not named stays as it was read, so that nothing may have changed since.
        let known = control.client.get_cell(&name).await?;
        declaration.capacity = Some(amounts.over(known.traits.capacity));
        write.expected_revision = write.expected_revision.or(Some(known.revision));
    }
    if declaration == Declaration::default() {
        let hint = "name one of --kind, --capacity, --reserve, --domain, --databases, --region, --residency, --without-gate, --gated and --gate";
        return Err(Failure::usage("nothing is declared", hint));
    }
    let cell = control.client.declare_cell(&name, declaration, write).await?;
    control.print_list(&[CellView::from(wire::Cell::from(&cell))]);
    Ok(Exit::Done)
}

pub(super) async fn set_tier(control: Control, name: TenantId, tier: Tier) -> Result<Exit, Failure> {
    let tenant = control.client.set_tier(&name, tier, control.write()).await?;
    control.print_list(&[TenantView::from(tenant)]);
    Ok(Exit::Done)
}

pub(super) async fn set_state(control: Control, of: OfCell, state: CellState) -> Result<Exit, Failure> {
    let OfCell::Cell { name } = of;
    let cell = control.client.set_cell_state(&name, state, control.write()).await?;
    control.print_list(&[CellView::from(wire::Cell::from(&cell))]);
    Ok(Exit::Done)
}
