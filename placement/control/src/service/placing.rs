//! A cell for a tenant that names none: the planner chooses, and its reason stays in the tenant's record.
//!
//! The control plane counts tenants and measures nothing, so the planner sees each cell with as much load as it has
//! tenants, and room such that the fullest would be three quarters full with one more: nobody is refused for want of
//! room, and what decides is who has fewest. Plans with measured demands are `cellctl plan`'s.

use std::fmt::Write as _;

use cell_model::{CellRecord, Fleet, FleetView, NewTenant, Suggestion, Tier};
use cell_planner::{
    Amounts, CellEntry, Decision, Demand, FleetDocument, Hourly, Layout, Policy, ResourceDemand, TenantEntry, place,
};

/// Share of its room that the fullest cell would take up with one tenant more.
const FULLEST: f64 = 0.75;

/// Where a new tenant would be best. Nothing where it names its cell, or where no cell may take it: the store's own
/// answer says more then.
pub(super) fn suggest(fleet: &Fleet, new: &NewTenant) -> Option<Suggestion> {
    if new.cell.is_some() {
        return None;
    }
    let document = document(fleet, new);
    let planned = document.build().ok()?;
    let tenant = planned.find_tenant(new.id.as_str())?;
    let decision = place(&Layout::new(&planned, Policy::default()), None, tenant).ok()?;
    let cell = decision.chosen.clone()?;
    let why = why(&decision, fleet.tenants_on(&cell));
    Some(Suggestion { cell, why })
}

/// The fleet as the planner sees it here: one stand-in a cell carries the load of all its tenants.
fn document(fleet: &Fleet, new: &NewTenant) -> FleetDocument {
    let counts: Vec<(&CellRecord, u64)> = fleet.cells().map(|cell| (cell, fleet.tenants_on(&cell.id))).collect();
    let fullest = counts.iter().map(|(_, count)| *count).max().unwrap_or_default() + 1;
    let capacity = Amounts { connections: number(fullest) / FULLEST, ..Amounts::default() };
    let cells = counts.iter().map(|(cell, _)| CellEntry {
        id: cell.id.to_string(),
        state: cell.state,
        residency: cell.residency.clone(),
        capacity,
        ..CellEntry::default()
    });
    let stand_in = |at: usize, cell: &CellRecord, count: u64| TenantEntry {
        // Not a name that a tenant of the fleet has: only the new one is asked for.
        id: if new.id.as_str() == format!("load-{at}") {
            format!("load-{at}-of-cell")
        } else {
            format!("load-{at}")
        },
        cell: cell.id.to_string(),
        demand: wanting(number(count)),
        ..TenantEntry::default()
    };
    let loads = counts.iter().enumerate().filter(|(_, (_, count))| *count > 0);
    let loads = loads.map(|(at, (cell, count))| stand_in(at, cell, *count));
    let new = TenantEntry {
        id: new.id.to_string(),
        // Which cells are dedicated is not known here: platinum is placed like the rest.
        tier: if new.tier == Tier::Platinum { Tier::Gold } else { new.tier },
        residency: new.residency.clone(),
        demand: wanting(1.0),
        ..TenantEntry::default()
    };
    let tenants = loads.chain([new]).collect();
    FleetDocument { cells: cells.collect(), tenants, revision: fleet.head().revision, ..FleetDocument::default() }
}

fn wanting(connections: f64) -> Demand {
    let connections = ResourceDemand { mean: Hourly::Flat(connections), deviation: Hourly::default() };
    Demand { connections, ..Demand::default() }
}

#[expect(clippy::cast_precision_loss, reason = "a number of tenants")]
const fn number(count: u64) -> f64 {
    count as f64
}

/// What is kept: short, and cut off where it would be too long.
fn why(decision: &Decision, tenants: u64) -> String {
    let mut why = format!("best of {} cells with {tenants} tenants", decision.cells_asked);
    // Writing to a string cannot fail.
    if let Some(margin) = &decision.margin {
        let _ = match margin.by {
            0 => write!(why, ", before {} by its name", margin.over),
            by => write!(why, ", before {} by {by} of {}", margin.over, margin.term),
        };
    }
    for refused in &decision.refused {
        let _ = write!(why, "; {} refused by {}", refused.cells, refused.code);
    }
    // Codes and ids are ASCII: every byte is a place to cut.
    why.truncate(Suggestion::WHY_MAX);
    why
}

#[cfg(test)]
mod tests {
    use cell_model::{CellId, CellState, ClusterId, Command, Envelope, Lineage, NewCell, TenantId, UnixMillis};

    use super::*;

    fn fleet(cells: &[(&str, &str)]) -> Fleet {
        let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
        for (id, residency) in cells {
            run(
                &mut fleet,
                Command::CreateCell(NewCell {
                    id: CellId::new(*id).unwrap(),
                    gates: Vec::new(),
                    agent: "h:1".into(),
                    region: String::new(),
                    residency: (*residency).into(),
                }),
            );
        }
        fleet
    }

    fn run(fleet: &mut Fleet, command: Command) {
        let (reply, _) = fleet.apply(&Envelope::new(UnixMillis(1), command));
        reply.result.unwrap();
    }

    fn new(id: &str, residency: &str, cell: Option<&str>) -> NewTenant {
        let cell = cell.map(|cell| CellId::new(cell).unwrap());
        NewTenant { id: TenantId::new(id).unwrap(), cell, tier: Tier::Platinum, residency: residency.into() }
    }

    #[test]
    fn the_cell_with_most_room_is_suggested_and_why() {
        let mut fleet = fleet(&[("c1", "eu"), ("c2", "eu"), ("c3", "us")]);
        for name in ["a", "b", "load-0"] {
            run(&mut fleet, Command::CreateTenant(new(name, "", Some("c1"))));
        }
        let suggested = suggest(&fleet, &new("acme", "eu", None)).unwrap();
        assert_eq!(suggested.cell.as_str(), "c2");
        assert!(suggested.why.starts_with("best of 3 cells with 0 tenants, before c1 by"), "{}", suggested.why);
        assert!(suggested.why.contains("1 refused by RESIDENCY_VIOLATED"), "{}", suggested.why);
        assert_eq!(suggest(&fleet, &new("load-0", "eu", None)).unwrap().cell.as_str(), "c2");
        assert_eq!(suggest(&fleet, &new("acme", "", Some("c1"))), None, "who names a cell gets it");
    }

    #[test]
    fn many_tenants_are_spread_evenly() {
        let mut fleet = fleet(&[("c1", ""), ("c2", ""), ("c3", ""), ("c4", "")]);
        for number in 0..200 {
            let tenant = new(&format!("t-{number}"), "", None);
            let suggestion = suggest(&fleet, &tenant).unwrap();
            run(&mut fleet, Command::PlaceTenant { tenant, suggestion });
        }
        let counts: Vec<u64> = fleet.cells().map(|cell| fleet.tenants_on(&cell.id)).collect();
        assert!(counts.iter().all(|count| (45..=55).contains(count)), "{counts:?}");
    }

    #[test]
    fn where_no_cell_may_take_it_the_store_answers() {
        let mut fleet = fleet(&[("c1", "eu")]);
        assert_eq!(suggest(&fleet, &new("acme", "mars", None)), None);
        run(&mut fleet, Command::SetCellState { cell: CellId::new("c1").unwrap(), state: CellState::Cordoned });
        assert_eq!(suggest(&fleet, &new("acme", "eu", None)), None);
        assert_eq!(suggest(&Fleet::default(), &new("acme", "", None)), None);
    }
}
