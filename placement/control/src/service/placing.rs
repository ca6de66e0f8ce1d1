//! A cell for a tenant that names none: the planner chooses, its reason stays in the tenant's record and all that led to it in
//! the audit trail.
//!
//! The control plane counts tenants and measures nothing, so the planner sees each cell with as much load as it has
//! tenants, those included that are on their way there or whose old copy there still follows: a connection each. Where an operator has declared how many connections a cell has, that is its room; every other
//! cell has room such that the fullest would be three quarters full with one more, so that nobody is refused there for want
//! of it. Plans with measured demands are `cellctl plan`'s.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use cell_model::{
    CellId, CellKind, CellRecord, Command, Fleet, FleetView, NewTenant, Suggestion, Tier, copies_under_way,
};
use cell_planner::{
    Amounts, CellEntry, Decision, Demand, FleetDocument, FleetError, HomeRing, Hourly, Layout, Policy,
    ResourceDemand, RingOptions, TenantEntry, place,
};

/// Share of its room that the fullest cell would take up with one tenant more.
const FULLEST: f64 = 0.75;

/// Default homes. The ring is that of `cellctl plan`, and is made anew only where the cells are others than before: it takes
/// some milliseconds for a thousand of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Homes(Arc<Mutex<Option<Arc<HomeRing>>>>);

impl Homes {
    /// The ring over these cells, which come in the order of their names; none where they are too many for one.
    pub(super) fn of(&self, cells: Vec<CellId>) -> Option<Arc<HomeRing>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|ring| ring.cells() != cells) {
            *known = HomeRing::build(cells, RingOptions::default()).ok().map(Arc::new);
        }
        known.clone()
    }
}

/// The command that places a new tenant: with the planner's suggestion, or with what it says where no cell may take it. The
/// store has the last word on both, and keeps in the audit trail what was said.
pub(super) fn command(fleet: &Fleet, ring: Option<&HomeRing>, new: &NewTenant) -> Command {
    let tenant = new.clone();
    if new.cell.is_some() {
        return Command::CreateTenant(tenant);
    }
    match look(fleet, ring, new) {
        Ok(suggestion) => Command::PlaceTenant { tenant, suggestion },
        Err(explained) => Command::UnplacedTenant { tenant, explained },
    }
}

/// Where a new tenant would be best; or what stands against every cell, and what would change that.
fn look(fleet: &Fleet, ring: Option<&HomeRing>, new: &NewTenant) -> Result<Suggestion, String> {
    let copies = copies_under_way(fleet);
    let planned = document(fleet, new, &copies).build().map_err(|error| wrong(&error))?;
    let tenant = planned.find_tenant(new.id.as_str()).ok_or("the planner lost sight of the tenant")?;
    let decision =
        place(&Layout::new(&planned, Policy::default()), ring, tenant).map_err(|error| error.to_string())?;
    let explained = explained(&decision);
    let Some(cell) = decision.chosen.clone() else { return Err(explained) };
    let why = why(&decision, fleet.tenants_on(&cell), copies.get(&cell).copied().unwrap_or_default());
    Ok(Suggestion { cell, why, explained })
}

/// The planner cannot even ask: there is no cell, or none where the tenant must be.
fn wrong(error: &FleetError) -> String {
    let told = error.problems.iter().map(|of| format!("{} ({}): {}", of.sentence, of.code.as_str(), of.remedy));
    joined(told)
}

/// The fleet as the planner sees it here: one stand-in a cell carries the load of all that are on it, and of all that a move under
/// way takes there or has brought from there.
fn document(fleet: &Fleet, new: &NewTenant, copies: &BTreeMap<&CellId, u64>) -> FleetDocument {
    let load = |cell: &CellRecord| {
        let copies = copies.get(&cell.id).copied().unwrap_or_default();
        fleet.tenants_on(&cell.id).saturating_add(copies)
    };
    let counts: Vec<(&CellRecord, u64)> = fleet.cells().map(|cell| (cell, load(cell))).collect();
    let fullest = counts.iter().map(|(_, count)| *count).max().unwrap_or_default() + 1;
    // As large as the largest that is known, so that a cell of which nobody said anything is no smaller in comparison.
    let largest = counts.iter().map(|(cell, _)| units(cell.traits.capacity.connections)).fold(0.0, f64::max);
    let unsaid = Amounts { connections: largest.max(number(fullest) / FULLEST), ..Amounts::default() };
    let cells = counts.iter().map(|(cell, _)| {
        let traits = &cell.traits;
        let (capacity, reserve) = match traits.capacity.connections {
            0 => (unsaid, 0.0),
            said => (Amounts { connections: units(said), ..Amounts::default() }, f64::from(traits.reserve) / 1e3),
        };
        CellEntry {
            id: cell.id.to_string(),
            state: cell.state,
            kind: traits.kind,
            region: cell.region.clone(),
            residency: cell.residency.clone(),
            domain: traits.domain.clone(),
            capacity,
            reserve,
            databases: traits.databases,
        }
    });
    let stand_in = |at: usize, cell: &CellRecord, count: u64| TenantEntry {
        // Not a name that a tenant of the fleet has: only the new one is asked for.
        id: if new.id.as_str() == format!("load-{at}") {
            format!("load-{at}-of-cell")
        } else {
            format!("load-{at}")
        },
        tier: if cell.traits.kind == CellKind::Dedicated { Tier::Platinum } else { Tier::Bronze },
        cell: cell.id.to_string(),
        demand: wanting(number(count)),
        ..TenantEntry::default()
    };
    let loads = counts.iter().enumerate().filter(|(_, (_, count))| *count > 0);
    let loads = loads.map(|(at, (cell, count))| stand_in(at, cell, *count));
    let new = TenantEntry {
        id: new.id.to_string(),
        tier: new.tier,
        residency: new.residency.clone(),
        demand: wanting(1.0),
        ..TenantEntry::default()
    };
    let tenants = loads.chain([new]).collect();
    FleetDocument { cells: cells.collect(), tenants, revision: fleet.head().revision, ..FleetDocument::default() }
}

#[expect(clippy::cast_precision_loss, reason = "the model bounds it far below")]
const fn units(thousandths: u64) -> f64 {
    thousandths as f64 / 1e3
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
fn why(decision: &Decision, tenants: u64, copies: u64) -> String {
    let counted = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let (cells, tenants) = (counted(decision.cells_asked.into(), "cell"), counted(tenants, "tenant"));
    let mut why = format!("best of {cells} with {tenants}");
    // Writing to a string cannot fail.
    if copies > 0 {
        let _ = write!(why, " and {copies} under way");
    }
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

/// What the audit trail keeps: the best cells with their terms, who refused for what, the margin, and what would have changed
/// the answer. What does not fit any more is left out whole.
fn explained(decision: &Decision) -> String {
    let candidates = decision.candidates.iter().map(|candidate| {
        let terms = candidate.terms.listed().map(|(name, value)| format!("{name}={value}"));
        format!("{} {}", candidate.cell, terms.join(" "))
    });
    let refused = decision.refused.iter().map(|refused| format!("{} refused by {}", refused.cells, refused.code));
    let margin = decision.margin.iter().map(|margin| match margin.by {
        0 => format!("better than {} by its name", margin.over),
        by => format!("better than {} by {by} of {}", margin.over, margin.term),
    });
    let changing = decision.counterfactuals.iter().map(|counterfactual| counterfactual.sentence.clone());
    joined(candidates.chain(refused).chain(margin).chain(changing))
}

/// One behind the other, as many as fit whole.
fn joined(items: impl Iterator<Item = String>) -> String {
    const MORE: &str = "; …";
    let mut explained = String::new();
    for item in items {
        let separator = if explained.is_empty() { "" } else { "; " };
        if explained.len() + separator.len() + item.len() + MORE.len() > Suggestion::EXPLAINED_MAX {
            explained.push_str(MORE);
            break;
        }
        explained.push_str(separator);
        explained.push_str(&item);
    }
    explained
}

#[cfg(test)]
mod tests {
    use cell_model::{
        Capacity, CellState, CellTraits, ClusterId, Declaration, Envelope, Event, Lineage, MoveOptions, NewCell,
        Rejected, TenantId, UnixMillis,
    };

    use super::*;

    fn cell(id: &str) -> CellId {
        CellId::new(id).unwrap()
    }

    fn fleet(cells: &[(&str, &str)]) -> Fleet {
        let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
        for (id, residency) in cells {
            run(
                &mut fleet,
                Command::CreateCell(NewCell {
                    id: cell(id),
                    gates: Vec::new(),
                    agent: "h:1".into(),
                    region: String::new(),
                    residency: (*residency).into(),
                    traits: CellTraits::default(),
                }),
            );
        }
        fleet
    }

    fn run(fleet: &mut Fleet, command: Command) {
        let (reply, _) = fleet.apply(&Envelope::new(UnixMillis(1), command));
        reply.result.unwrap();
    }

    fn declare(fleet: &mut Fleet, id: &str, declaration: Declaration) {
        run(fleet, Command::DeclareCell { cell: cell(id), declaration, only: None });
    }

    fn new(id: &str, residency: &str, on: Option<&str>) -> NewTenant {
        NewTenant {
            id: TenantId::new(id).unwrap(),
            cell: on.map(cell),
            tier: Tier::Gold,
            residency: residency.into(),
        }
    }

    fn ring(fleet: &Fleet) -> Arc<HomeRing> {
        Homes::default().of(fleet.cells().map(|cell| cell.id.clone()).collect()).unwrap()
    }

    /// Places it as a leader does.
    fn arrive(fleet: &mut Fleet, ring: &HomeRing, tenant: NewTenant) -> Result<CellId, Rejected> {
        let id = tenant.id.clone();
        let command = command(fleet, Some(ring), &tenant);
        fleet.apply(&Envelope::new(UnixMillis(1), command)).0.result?;
        Ok(fleet.tenant(&id).unwrap().owner.clone())
    }

    #[test]
    fn the_cell_with_most_room_is_suggested_and_why() {
        let mut fleet = fleet(&[("c1", "eu"), ("c2", "eu"), ("c3", "us")]);
        for name in ["a", "b", "load-0"] {
            run(&mut fleet, Command::CreateTenant(new(name, "", Some("c1"))));
        }
        let suggested = look(&fleet, None, &new("acme", "eu", None)).unwrap();
        assert_eq!(suggested.cell.as_str(), "c2");
        assert!(suggested.why.starts_with("best of 3 cells with 0 tenants, before c1 by"), "{}", suggested.why);
        assert!(suggested.why.contains("1 refused by RESIDENCY_VIOLATED"), "{}", suggested.why);
        let told: Vec<&str> = suggested.explained.split("; ").collect();
        assert!(told[0].starts_with("c2 strain=0 ") && told[0].contains(" level="), "{told:?}");
        assert!(told[1].starts_with("c1 strain="), "{told:?}");
        assert!(
            told[2] == "1 refused by RESIDENCY_VIOLATED" && told[3].starts_with("better than c1 by "),
            "{told:?}"
        );
        assert_eq!(look(&fleet, None, &new("load-0", "eu", None)).unwrap().cell.as_str(), "c2");
        let named = new("acme", "", Some("c1"));
        assert_eq!(command(&fleet, None, &named), Command::CreateTenant(named.clone()), "who names a cell gets it");
    }

    #[test]
    fn what_is_kept_of_the_longest_explanation_ends_with_a_whole_item() {
        let names: Vec<String> = (0..60).map(|number| format!("{number:02}{}", "x".repeat(61))).collect();
        let mut fleet = fleet(&names.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
        for name in &names {
            let capacity = Some(Capacity { connections: 1, ..Capacity::default() });
            if name.as_str() > "06" {
                declare(&mut fleet, name, Declaration { capacity, ..Declaration::default() });
            }
        }
        let suggested = look(&fleet, None, &new("acme", "", None)).unwrap();
        assert!(suggested.explained.len() <= Suggestion::EXPLAINED_MAX, "{}", suggested.explained.len());
        let items: Vec<&str> = suggested.explained.split("; ").collect();
        assert!(items.contains(&"54 refused by CAPACITY_EXCEEDED"), "{items:?}");
        run(&mut fleet, Command::PlaceTenant { tenant: new("acme", "", None), suggestion: suggested.clone() });
        let kept = &fleet.audit().last().unwrap().detail;
        assert!(kept.ends_with(&format!("explained={:?}", suggested.explained)), "{kept}");
    }

    #[test]
    fn many_tenants_are_spread_evenly() {
        let mut fleet = fleet(&[("c1", ""), ("c2", ""), ("c3", ""), ("c4", "")]);
        let ring = ring(&fleet);
        for number in 0..200 {
            arrive(&mut fleet, &ring, new(&format!("t-{number}"), "", None)).unwrap();
        }
        let counts: Vec<u64> = fleet.cells().map(|cell| fleet.tenants_on(&cell.id)).collect();
        assert!(counts.iter().all(|count| (45..=55).contains(count)), "{counts:?}");
    }

    #[test]
    fn of_cells_that_are_alike_the_default_home_is_chosen() {
        let fleet = fleet(&[("c1", ""), ("c2", ""), ("c3", ""), ("c4", "")]);
        let ring = ring(&fleet);
        let mut chosen = std::collections::BTreeSet::new();
        for number in 0..20 {
            let tenant = new(&format!("t-{number}"), "", None);
            let suggested = look(&fleet, Some(&ring), &tenant).unwrap();
            assert_eq!(Some(&suggested.cell), ring.home(tenant.id.as_str(), |_| true), "{suggested:?}");
            chosen.insert(suggested.cell);
        }
        assert_eq!(chosen.len(), 4, "{chosen:?}");
        let homes = Homes::default();
        let cells = |names: &[&str]| homes.of(names.iter().map(|name| cell(name)).collect()).unwrap();
        let first = cells(&["c1", "c2"]);
        assert!(Arc::ptr_eq(&first, &cells(&["c1", "c2"])), "it is made once");
        assert_eq!(cells(&["c1", "c3"]).cells(), [cell("c1"), cell("c3")]);
    }

    #[test]
    fn a_cell_takes_no_more_than_it_was_declared_to_have() {
        let mut fleet = fleet(&[("c1", ""), ("c2", "")]);
        let ring = ring(&fleet);
        for (id, connections, reserve) in [("c1", 4_000, 250), ("c2", 2_000, 0)] {
            let capacity = Some(Capacity { connections, ..Capacity::default() });
            declare(&mut fleet, id, Declaration { capacity, reserve: Some(reserve), ..Declaration::default() });
        }
        for number in 0..5 {
            arrive(&mut fleet, &ring, new(&format!("t-{number}"), "", None)).unwrap();
        }
        assert_eq!(["c1", "c2"].map(|id| fleet.tenants_on(&cell(id))), [3, 2]);
        let full = arrive(&mut fleet, &ring, new("t-5", "", None)).unwrap_err();
        assert_eq!(full.code(), "NO_ELIGIBLE_CELL");
        assert!(full.to_string().ends_with(": 2 refused by CAPACITY_EXCEEDED"), "{full}");
        let named = arrive(&mut fleet, &ring, new("t-5", "", Some("c1")));
        assert_eq!(named, Ok(cell("c1")), "who names a cell outweighs what it was declared to have");
    }

    #[test]
    fn platinum_gets_a_dedicated_cell_to_itself_or_none() {
        let mut fleet = fleet(&[("c1", ""), ("c2", ""), ("c3", "")]);
        let ring = ring(&fleet);
        let prem = |id: &str| NewTenant { tier: Tier::Platinum, ..new(id, "", None) };
        let none = arrive(&mut fleet, &ring, prem("p1")).unwrap_err();
        assert!(none.to_string().ends_with(": 3 refused by TIER_MISMATCH"), "{none}");
        assert!(none.hint().contains("cellctl cell declare CELL --kind dedicated"), "{}", none.hint());
        declare(&mut fleet, "c2", Declaration { kind: Some(CellKind::Dedicated), ..Declaration::default() });
        for number in 0..6 {
            let on = arrive(&mut fleet, &ring, new(&format!("t-{number}"), "", None)).unwrap();
            assert_ne!(on, cell("c2"), "nobody else comes to it");
        }
        assert_eq!(arrive(&mut fleet, &ring, prem("p1")), Ok(cell("c2")));
        let none = arrive(&mut fleet, &ring, prem("p2")).unwrap_err();
        assert!(none.to_string().ends_with("2 refused by TIER_MISMATCH, 1 refused by CELL_OCCUPIED"), "{none}");
    }

    #[test]
    fn a_tenant_on_its_way_takes_room_on_both_cells() {
        let mut fleet = fleet(&[("c1", ""), ("c2", ""), ("c3", "")]);
        let ring = ring(&fleet);
        let capacity = Some(Capacity { connections: 2_000, ..Capacity::default() });
        for name in ["c1", "c2", "c3"] {
            declare(&mut fleet, name, Declaration { capacity, ..Declaration::default() });
        }
        for (name, on) in [("a", "c1"), ("b", "c1"), ("c", "c3")] {
            run(&mut fleet, Command::CreateTenant(new(name, "", Some(on))));
            let id = TenantId::new(name).unwrap();
            let uid = fleet.tenant(&id).unwrap().uid;
            let (move_id, leg, event) = (None, None, Event::Granted);
            run(&mut fleet, Command::Record { tenant: id, uid, move_id, leg, event });
        }
        for (name, target) in [("a", "c2"), ("b", "c2")] {
            let (tenant, options) = (TenantId::new(name).unwrap(), MoveOptions::default());
            run(&mut fleet, Command::MoveTenant { tenant, target: cell(target), options });
        }
        // Nobody is on c2 yet, and two will be; two are still on c1.
        assert_eq!(arrive(&mut fleet, &ring, new("d", "", None)), Ok(cell("c3")));
        let full = arrive(&mut fleet, &ring, new("e", "", None)).unwrap_err();
        assert!(full.to_string().ends_with(": 3 refused by CAPACITY_EXCEEDED"), "{full}");
        assert_eq!(arrive(&mut fleet, &ring, new("e", "", Some("c2"))), Ok(cell("c2")), "who names a cell gets it");
    }

    #[test]
    fn of_who_is_on_its_way_the_reason_tells() {
        let mut fleet = fleet(&[("c1", ""), ("c2", "")]);
        run(&mut fleet, Command::CreateTenant(new("a", "", Some("c1"))));
        let (tenant, uid) = (TenantId::new("a").unwrap(), fleet.tenant(&TenantId::new("a").unwrap()).unwrap().uid);
        let granted =
            Command::Record { tenant: tenant.clone(), uid, move_id: None, leg: None, event: Event::Granted };
        run(&mut fleet, granted);
        run(&mut fleet, Command::MoveTenant { tenant, target: cell("c2"), options: MoveOptions::default() });
        let suggested = look(&fleet, None, &new("b", "", None)).unwrap();
        assert!(suggested.why.starts_with("best of 2 cells with 1 tenant, before c2 by its name"), "{suggested:?}");
        run(&mut fleet, Command::SetCellState { cell: cell("c1"), state: CellState::Cordoned });
        let suggested = look(&fleet, None, &new("b", "", None)).unwrap();
        assert!(suggested.why.starts_with("best of 2 cells with 0 tenants and 1 under way"), "{suggested:?}");
    }

    #[test]
    fn why_nobody_takes_it_and_what_would_change_that_is_kept() {
        let mut fleet = fleet(&[("c1", "eu"), ("c2", "eu"), ("c3", "us")]);
        let ring = ring(&fleet);
        let capacity = Some(Capacity { connections: 1_000, ..Capacity::default() });
        declare(&mut fleet, "c1", Declaration { capacity, ..Declaration::default() });
        run(&mut fleet, Command::CreateTenant(new("a", "", Some("c1"))));
        run(&mut fleet, Command::SetCellState { cell: cell("c2"), state: CellState::Cordoned });
        let refused = arrive(&mut fleet, &ring, new("b", "eu", None)).unwrap_err();
        assert_eq!(refused.code(), "NO_ELIGIBLE_CELL");
        let kept = fleet.audit().last().unwrap();
        assert_eq!((kept.action.as_str(), kept.outcome.as_str()), ("create-tenant", "NO_ELIGIBLE_CELL"));
        for told in [
            "1 refused by RESIDENCY_VIOLATED; 1 refused by CELL_CORDONED; 1 refused by CAPACITY_EXCEEDED",
            "lifting the cordon of c2 would admit it",
            "1 connection more at 00:00 on c1 would admit it",
            r#"refused="1 CAPACITY_EXCEEDED, 1 CELL_CORDONED, 1 RESIDENCY_VIOLATED""#,
        ] {
            assert!(kept.detail.contains(told), "{told:?} is not in {}", kept.detail);
        }
        // A zone in which no cell stands is not even asked about.
        arrive(&mut fleet, &ring, new("b", "mars", None)).unwrap_err();
        let kept = &fleet.audit().last().unwrap().detail;
        assert!(kept.contains("RESIDENCY_UNKNOWN") && kept.contains("choose one of: eu, us"), "{kept}");
    }

    #[test]
    fn what_stood_against_it_is_not_kept_where_it_was_placed_after_all() {
        let mut fleet = fleet(&[("c1", "")]);
        run(&mut fleet, Command::SetCellState { cell: cell("c1"), state: CellState::Cordoned });
        let asked = command(&fleet, None, &new("a", "", None));
        assert!(matches!(asked, Command::UnplacedTenant { .. }), "{asked:?}");
        run(&mut fleet, Command::SetCellState { cell: cell("c1"), state: CellState::Active });
        run(&mut fleet, asked);
        let kept = &fleet.audit().last().unwrap().detail;
        assert!(kept.contains("cell=c1") && !kept.contains("explained"), "{kept}");
    }

    #[test]
    fn where_no_cell_may_take_it_the_store_answers() {
        let mut fleet = fleet(&[("c1", "eu")]);
        let refusals =
            |fleet: &Fleet, residency: &str| look(fleet, None, &new("acme", residency, None)).unwrap_err();
        assert!(refusals(&fleet, "mars").contains("RESIDENCY_UNKNOWN"));
        run(&mut fleet, Command::SetCellState { cell: cell("c1"), state: CellState::Cordoned });
        assert!(refusals(&fleet, "eu").starts_with("1 refused by CELL_CORDONED"));
        assert!(refusals(&Fleet::default(), "").contains("FLEET_EMPTY"));
    }
}
