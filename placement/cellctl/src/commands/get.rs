//! `get` and `describe`: look, change nothing.

use cell_client::{ClientError, ListOptions, cluster, wire};

use super::Control;
use crate::cli::{Describe, Get};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::pages::{all, all_of};
use crate::render::{describe_cell, describe_move, describe_tenant, one};
use crate::view::{CellView, MoveView, RouterView, TenantView};

pub(super) async fn get(control: Control, get: Get) -> Result<Exit, Failure> {
    tell_staleness(&control).await;
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
    tell_staleness(&control).await;
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

/// What a stale answer is as of: the revision of each node that may give it, and whether it knows of a leader.
async fn tell_staleness(control: &Control) {
    if !control.global.stale {
        return;
    }
    for endpoint in &control.target.endpoints {
        let patience = control.global.timeout.min(std::time::Duration::from_secs(1));
        match cluster::status(endpoint, patience, &control.target.link).await {
            Ok(status) => console::note(&staleness(endpoint, &status)),
            Err(error) => console::note(&format!("{endpoint} does not answer: {error}")),
        }
    }
}

fn staleness(endpoint: &str, status: &wire::StatusResponse) -> String {
    let known = match (status.is_leader, status.quorum_ack_ms, status.leader.as_str()) {
        (true, Some(ago), _) => format!("a majority has confirmed it as the leader {ago} ms ago"),
        (true, None, _) => "it leads, and no majority has confirmed it".to_owned(),
        (false, _, "") => "it knows of no leader".to_owned(),
        (false, _, leader) => format!("it follows {leader}"),
    };
    format!("{endpoint} answers as of revision {}; {known}", status.revision)
}

async fn tenants(control: &Control, cell: Option<&cell_model::CellId>) -> Result<Vec<TenantView>, ClientError> {
    let filter = cell.map(ToString::to_string).unwrap_or_default();
    let options = ListOptions { filter, ..ListOptions::default() };
    let tenants = all_of(|options| control.client.list_tenants(options), options).await?;
    Ok(tenants.into_iter().map(TenantView::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_answer_says_as_of_when_it_is() {
        let follower = wire::StatusResponse { revision: 7, leader: "n1:1".into(), ..Default::default() };
        assert_eq!(staleness("n2:1", &follower), "n2:1 answers as of revision 7; it follows n1:1");
        let alone = wire::StatusResponse { leader: String::new(), ..follower.clone() };
        assert!(staleness("n2:1", &alone).ends_with("it knows of no leader"));
        let cut_off = wire::StatusResponse { is_leader: true, quorum_ack_ms: Some(9_000), ..follower };
        assert!(staleness("n1:1", &cut_off).ends_with("confirmed it as the leader 9000 ms ago"));
    }
}
