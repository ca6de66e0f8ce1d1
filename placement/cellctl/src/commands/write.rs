//! `create`, `delete`, `cordon`, `uncordon`, `move`: change the fleet.

use std::time::Duration;

use cell_client::wire;
use cell_model::{CellState, MoveId, MoveIntent, MoveOptions, NewCell, NewTenant};

use super::Control;
use crate::cli::{Create, Delete, Move, MoveTenant, OfCell};
use crate::failure::{Exit, Failure};
use crate::view::{CellView, MoveView, TenantView};
use crate::{console, follow};

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

pub(super) async fn movement(control: Control, movement: Move) -> Result<Exit, Failure> {
    match movement {
        Move::Tenant(asked) => move_tenant(control, asked).await,
        Move::Pause { id } => steer(control, id, MoveIntent::Pause).await,
        Move::Resume { id } => steer(control, id, MoveIntent::Resume).await,
        Move::Cancel { id } => steer(control, id, MoveIntent::Cancel).await,
        Move::Rollback { id } => steer(control, id, MoveIntent::Rollback).await,
    }
}

async fn move_tenant(control: Control, asked: MoveTenant) -> Result<Exit, Failure> {
    let options = options_of(&asked)?;
    let (id, tenant) = control.client.move_tenant(&asked.tenant, &asked.to, options, control.write()).await?;
    if asked.watch {
        return follow::follow(&control, id).await;
    }
    let movement = match tenant.r#move {
        Some(movement) => movement,
        None => control.client.get_move(id).await?,
    };
    control.print_list(&[MoveView::from(movement)]);
    console::note(&format!("`cellctl describe move {id}` shows how it goes"));
    Ok(Exit::Done)
}

async fn steer(control: Control, id: MoveId, intent: MoveIntent) -> Result<Exit, Failure> {
    control.client.steer_move(id, intent, control.write()).await?;
    control.print_list(&[MoveView::from(control.client.get_move(id).await?)]);
    Ok(Exit::Done)
}

fn options_of(asked: &MoveTenant) -> Result<MoveOptions, Failure> {
    let small = |name: &str, duration: Duration| {
        u32::try_from(duration.as_millis())
            .map_err(|_| Failure::usage(format!("{name} is too long"), "at most 49 days"))
    };
    Ok(MoveOptions {
        until: asked.until,
        hold_max_ms: small("--max-hold", asked.max_hold)?,
        sync_steady_ms: small("--steady", asked.steady)?,
        soak_ms: small("--soak", asked.soak)?,
        retain_ms: u64::try_from(asked.retain.as_millis())
            .map_err(|_| Failure::usage("--retain is too long", "say a shorter time"))?,
        retries: asked.retries,
    })
}
