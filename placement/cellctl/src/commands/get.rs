//! `get` and `describe`: look, change nothing.

use cell_client::{ClientError, ListOptions, wire};

use super::Control;
use crate::cli::{Describe, Get};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::pages::{all, all_of};
use crate::render::{describe_cell, describe_move, describe_tenant, one};
use crate::view::{CellView, MoveView, RouterView, TenantView};

pub(super) async fn get(control: Control, get: Get) -> Result<Exit, Failure> {
    match get {
        Get::Tenants { name: Some(name), .. } => {
            control.print_list(&[TenantView::from(control.client.get_tenant(&name).await?)]);
        }
        Get::Tenants { name: None, cell } => control.print_list(&tenants(&control, cell.as_ref()).await?),
        Get::Cells { name: Some(name) } => {
            control.print_list(&[CellView::from(wire::Cell::from(&control.client.get_cell(&name).await?))]);
        }
        Get::Cells { name: None } => {
            let cells = all(|options| control.client.list_cells(options)).await?;
            let cells: Vec<CellView> = cells.iter().map(|cell| CellView::from(wire::Cell::from(cell))).collect();
            control.print_list(&cells);
        }
        Get::Routers { tenant } => {
            let known = control.client.list_routers(tenant.as_ref()).await?;
            control.print_list(&RouterView::of(known, tenant.is_some()));
        }
        Get::Moves { id: Some(id), .. } => {
            control.print_list(&[MoveView::from(control.client.get_move(id).await?)]);
        }
        Get::Moves { id: None, tenant, all: include_ended } => {
            let filter = tenant.map(String::from).unwrap_or_default();
            let options = ListOptions { filter, include_ended, ..ListOptions::default() };
            let moves = all_of(|options| control.client.list_moves(options), options).await?;
            control.print_list(&moves.into_iter().map(MoveView::from).collect::<Vec<_>>());
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn describe(control: Control, describe: Describe) -> Result<Exit, Failure> {
    let output = control.global.output;
    let text = match describe {
        Describe::Tenant { name } => {
            let tenant = TenantView::from(control.client.get_tenant(&name).await?);
            one(&tenant, output, describe_tenant)
        }
        Describe::Cell { name } => {
            let cell = CellView::from(wire::Cell::from(&control.client.get_cell(&name).await?));
            let tenants = tenants(&control, Some(&name)).await?.len();
            one(&cell, output, |cell| describe_cell(cell, tenants))
        }
        Describe::Move { id } => {
            let movement = MoveView::from(control.client.get_move(id).await?);
            one(&movement, output, describe_move)
        }
    };
    console::data(&text);
    Ok(Exit::Done)
}

async fn tenants(control: &Control, cell: Option<&cell_model::CellId>) -> Result<Vec<TenantView>, ClientError> {
    let filter = cell.map(ToString::to_string).unwrap_or_default();
    let options = ListOptions { filter, ..ListOptions::default() };
    let tenants = all_of(|options| control.client.list_tenants(options), options).await?;
    Ok(tenants.into_iter().map(TenantView::from).collect())
}
