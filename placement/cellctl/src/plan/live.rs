//! The live fleet, as the planner sees fleets.
//!
//! Places, states, regions, residencies, tiers and moves come from the control plane, all at one revision. Storage is
//! what the cells' agents have measured. Kind, capacity and failure domain of a cell are what an operator has declared of it.
//! What nobody can measure comes from a *profile*: demands, groups, pins and cooldowns of tenants; it may know capacities and
//! failure domains better, too. Without one, a tenant is taken to want one connection and its measured storage, and a cell of
//! which nothing was declared to have room for four times the mean of all cells: placing, draining and repairing work then, and
//! such a cell is hot only if it holds far more than its share.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use cell_client::{AgentOptions, AgentPool, ClientError, ListOptions, Page, wire};
use cell_model::{CellId, CellRecord, CellTraits, Revision, Tier, UnixMillis};
use cell_planner::{Amounts, CellEntry, Demand, Fleet, FleetDocument, Hourly, ResourceDemand, TenantEntry};
use futures::StreamExt as _;

use super::plural;
use crate::adopt::some;
use crate::commands::Control;
use crate::failure::Failure;

/// Agents that count at once.
const ASKED_AT_ONCE: usize = 64;
/// Tries to read every page at one revision.
const TRIES: usize = 20;
const BYTES_PER_GB: f64 = 1e9;
const NO_ROOM: Amounts = Amounts { cpu: 0.0, connections: 0.0, storage: 0.0 };
/// Room of a cell that nobody has described, in means of all cells,
const MEANS: f64 = 4.0;
/// and how full the fullest cell is with it, at most.
const FULLEST: f64 = 0.75;

/// The fleet, and what a person should know of how it was come by.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) fleet: Fleet,
    pub(super) notes: Vec<String>,
    /// Cells of which somebody has yet to say what they have: how full they are stands on an assumption.
    pub(super) assumed: Vec<CellId>,
}

/// Takes a picture of the live fleet. `cooldown`: whoever has moved is left alone for so long.
///
/// # Errors
/// The control plane cannot be asked, the fleet changes all the time, or profile and fleet contradict each other.
pub(super) async fn take(
    control: &Control,
    profile: Option<&Fleet>,
    cooldown: Option<Duration>,
) -> Result<Taken, Failure> {
    let (revision, cells, tenants) = at_one_revision(control).await?;
    let mut notes = Vec::new();
    let measured = measured(control, &cells, &mut notes).await;
    let cluster = cluster(control).await?;
    let cooling = match cooldown {
        Some(cooldown) => {
            let ended = |page| control.client.list_moves(ListOptions { include_ended: true, ..page });
            cooling(&every_page(ended, &mut Vec::new()).await?, cooldown)
        }
        None => BTreeMap::new(),
    };
    let picture = Picture { revision, cluster, cells, tenants, measured, cooling };
    let profile = profile.map(Fleet::to_document);
    let document = match &profile {
        Some(profile) => picture.with_profile(profile, &mut notes),
        None => picture.without_profile(&mut notes),
    };
    let assumed = picture.assumed(profile.as_ref());
    let fleet = document.build().map_err(|error| {
        let code = error.problems.first().map_or("FLEET_SYNTAX", |problem| problem.code.as_str());
        let message = format!("the live fleet cannot be planned with:\n  {error}");
        Failure::new(code, message, "`cellctl create cell` adds a cell; a --profile must fit the live fleet")
    })?;
    Ok(Taken { fleet, notes, assumed })
}

/// Which control plane this is, and which history of it: a plan of another one is not to be carried out here.
///
/// # Errors
/// It cannot be asked.
pub(super) async fn cluster(control: &Control) -> Result<String, Failure> {
    let lineage = control.client.confirm_revision(1, None).await?.lineage;
    // The end of the trail names the cluster; none of its entries is wanted.
    let end = control.client.list_audit(u64::MAX, None).await?.end;
    Ok(format!("{}/{lineage}", end.cluster))
}

type Records = (Revision, Vec<CellRecord>, Vec<wire::Tenant>);

/// A plan carries the revision that it was made on, so all pages must be of one.
async fn at_one_revision(control: &Control) -> Result<Records, Failure> {
    for _ in 0..TRIES {
        let mut revisions = Vec::new();
        let cells = every_page(|page| control.client.list_cells(page), &mut revisions).await?;
        let tenants = every_page(|page| control.client.list_tenants(page), &mut revisions).await?;
        revisions.dedup();
        if let [revision] = revisions.as_slice() {
            return Ok((*revision, cells, tenants));
        }
    }
    let message = format!("the fleet has changed during each of {TRIES} readings");
    Err(Failure::new("FLEET_CHANGING", message, "run the command again when fewer moves run"))
}

async fn every_page<T, F>(list: impl Fn(ListOptions) -> F, revisions: &mut Vec<Revision>) -> Result<Vec<T>, Failure>
where
    F: Future<Output = Result<Page<T>, ClientError>>,
{
    let mut options = ListOptions { page_size: 1_000, ..ListOptions::default() };
    let mut items = Vec::new();
    loop {
        let page = list(options.clone()).await?;
        revisions.push(page.revision);
        items.extend(page.items);
        if page.next_page_token.is_empty() {
            return Ok(items);
        }
        options.page_token = page.next_page_token;
    }
}

/// Gigabytes of each tenant, by the agent of its cell.
async fn measured(
    control: &Control,
    cells: &[CellRecord],
    notes: &mut Vec<String>,
) -> BTreeMap<(String, String), f64> {
    let (patience, link) = (control.global.timeout, control.target.link.clone());
    let agents = AgentPool::new(AgentOptions { step: patience, link, ..AgentOptions::default() });
    let asked = cells.iter().map(|cell| {
        let agents = agents.clone();
        async move { (cell.id.to_string(), agents.describe(&cell.agent, None).await.ok()) }
    });
    let told: Vec<_> = futures::stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await;
    sizes(told, notes)
}

/// What agents have told, by cell and tenant; none where one has not answered.
fn sizes(
    told: Vec<(String, Option<wire::DescribeResponse>)>,
    notes: &mut Vec<String>,
) -> BTreeMap<(String, String), f64> {
    let mut sizes = BTreeMap::new();
    let (mut silent, mut not_counted) = (Vec::new(), Vec::new());
    for (cell, described) in told {
        let Some(described) = described else {
            silent.push(cell);
            continue;
        };
        if described.storage.iter().any(|storage| storage.not_counted) {
            not_counted.push(cell.clone());
        }
        for storage in described.storage {
            #[expect(clippy::cast_precision_loss, reason = "megabytes are looked at")]
            let gigabytes = storage.bytes as f64 / BYTES_PER_GB;
            sizes.insert((cell.clone(), storage.tenant), gigabytes);
        }
    }
    if !silent.is_empty() {
        let who = some(silent.iter().map(String::as_str));
        notes.push(format!("the agents of {who} do not answer in time: their tenants' storage counts as 0"));
    }
    if !not_counted.is_empty() {
        let who = some(not_counted.iter().map(String::as_str));
        notes.push(format!(
            "the databases of {who} are too large to be counted in a moment: their tenants' storage is as it was counted last, or 0; \
             --profile FILE may say it"
        ));
    }
    sizes
}

struct Picture {
    revision: Revision,
    cluster: String,
    cells: Vec<CellRecord>,
    tenants: Vec<wire::Tenant>,
    measured: BTreeMap<(String, String), f64>,
    /// Until when tenants are left alone because they have just moved.
    cooling: BTreeMap<String, UnixMillis>,
}

/// Until when whoever has moved is left alone; who came back has moved, too.
fn cooling(moves: &[wire::Move], cooldown: Duration) -> BTreeMap<String, UnixMillis> {
    let cooldown = u64::try_from(cooldown.as_millis()).unwrap_or(u64::MAX);
    let mut until = BTreeMap::new();
    for of in moves.iter().filter(|of| matches!(of.end.as_str(), "completed" | "rolled-back" | "taken-over")) {
        let over = UnixMillis(of.ended_unix_ms.saturating_add(cooldown));
        let known = until.entry(of.tenant.clone()).or_insert(over);
        *known = over.max(*known);
    }
    until
}

/// Whether nobody has said of a resource how much of it the cell has.
const fn says_less_than_all(cell: &CellRecord) -> bool {
    cell.traits.capacity.connections == 0 || cell.traits.capacity.storage == 0
}

/// Where a move under way takes a tenant, or has brought it from. While it runs, and while the old copy follows, both cells carry the
/// tenant.
fn elsewhere(tenant: &wire::Tenant, mapping: &wire::Mapping) -> (String, String) {
    let Some(movement) = &tenant.r#move else { return Default::default() };
    let is_forward = movement.leg == i32::from(wire::Leg::Forward);
    let has_arrived = (mapping.owner == movement.target) == is_forward;
    let peer = mapping.peer.clone();
    if has_arrived { (String::new(), peer) } else { (peer, String::new()) }
}

/// The tier that goes with owning on that cell, where the tenant's move changes it.
fn tier_on(tenant: &wire::Tenant, cell: &str) -> Option<i32> {
    let movement = tenant.r#move.as_ref()?;
    let tiers = movement.tiers.as_ref()?;
    let on = |of: &str, tier| (of == cell).then_some(tier);
    on(&movement.target, tiers.target).or_else(|| on(&movement.source, tiers.source))
}

impl Picture {
    /// What was declared of it, and `room` of what nobody has said how much there is.
    fn cell_entry(cell: &CellRecord, room: Amounts) -> CellEntry {
        let CellTraits { kind, domain, capacity, reserve, databases, ungated: _ } = &cell.traits;
        let reserve = f64::from(*reserve) / 1e3;
        let said = |thousandths: u64, room: f64| match thousandths {
            0 => (room / (1.0 - reserve)).ceil(),
            said => units(said),
        };
        CellEntry {
            id: cell.id.to_string(),
            state: cell.state,
            kind: *kind,
            region: cell.region.clone(),
            residency: cell.residency.clone(),
            domain: domain.clone(),
            capacity: Amounts {
                cpu: said(capacity.cpu, room.cpu),
                connections: said(capacity.connections, room.connections),
                storage: said(capacity.storage, room.storage),
            },
            reserve,
            databases: *databases,
        }
    }

    /// Tenants that use a cell, deleted ones left out.
    fn tenant_entries(&self) -> impl Iterator<Item = TenantEntry> + '_ {
        let living = self.tenants.iter().filter(|tenant| matches!(tenant.life.as_str(), "live" | "provisioning"));
        living.filter_map(|tenant| {
            let mapping = tenant.mapping.as_ref()?;
            let (moving_to, arrived_from) = elsewhere(tenant, mapping);
            // Where a move brings another tier, it is on its way to a cell for that one.
            let tier = tier_on(tenant, &moving_to).unwrap_or(mapping.tier);
            let tier = wire::Tier::try_from(tier).ok().and_then(|tier| Tier::try_from(tier).ok());
            Some(TenantEntry {
                id: mapping.tenant.clone(),
                tier: tier.unwrap_or_default(),
                residency: tenant.residency.clone(),
                cell: mapping.owner.clone(),
                moving_to,
                arrived_from,
                demand: self.least_demand(&mapping.owner, &mapping.tenant),
                cooldown_until: self.cooling.get(&mapping.tenant).copied().unwrap_or_default(),
                ..TenantEntry::default()
            })
        })
    }

    /// The cells whose room is assumed: of which neither the profile nor anybody else has said how much it is.
    fn assumed(&self, profile: Option<&FleetDocument>) -> Vec<CellId> {
        let is_known = |cell: &CellRecord| {
            profile.is_some_and(|profile| profile.cells.iter().any(|of| of.id == cell.id.as_str()))
        };
        let silent = self.cells.iter().filter(|cell| says_less_than_all(cell) && !is_known(cell));
        silent.map(|cell| cell.id.clone()).collect()
    }

    fn least_demand(&self, cell: &str, tenant: &str) -> Demand {
        let flat = |value| ResourceDemand { mean: Hourly::Flat(value), deviation: Hourly::default() };
        let storage = self.measured.get(&(cell.to_owned(), tenant.to_owned())).copied().unwrap_or_default();
        Demand { connections: flat(1.0), storage: flat(storage), ..Demand::default() }
    }

    fn without_profile(&self, notes: &mut Vec<String>) -> FleetDocument {
        let tenants: Vec<TenantEntry> = self.tenant_entries().collect();
        let room = self.room(&tenants);
        let cells = self.cells.iter().map(|cell| Self::cell_entry(cell, room)).collect();
        let room = match self.cells.iter().filter(|cell| says_less_than_all(cell)).count() {
            0 => String::new(),
            silent => format!(
                "; of {} no connections or storage were declared (`cellctl cell declare`), and room for four times the mean \
                 of all cells is assumed",
                plural(silent, "cell")
            ),
        };
        notes.push(format!(
            "no --profile: each tenant counts as one connection and its measured storage, and takes no cpu{room}"
        ));
        FleetDocument { revision: self.revision, cluster: self.cluster.clone(), cells, tenants }
    }

    /// Room where nobody knows better: four times what a cell has on average, and a third more than any has.
    fn room(&self, tenants: &[TenantEntry]) -> Amounts {
        let mut cells: BTreeMap<&str, Amounts> = BTreeMap::new();
        for tenant in tenants {
            for cell in
                [&tenant.cell, &tenant.moving_to, &tenant.arrived_from].into_iter().filter(|cell| !cell.is_empty())
            {
                let sum = cells.entry(cell).or_insert(NO_ROOM);
                sum.cpu += most(&tenant.demand.cpu.mean);
                sum.connections += most(&tenant.demand.connections.mean);
                sum.storage += most(&tenant.demand.storage.mean);
            }
        }
        let room = |of: fn(&Amounts) -> f64| {
            let (total, fullest) = cells
                .values()
                .map(of)
                .fold((0.0, 0.0), |(total, fullest): (f64, f64), of| (total + of, fullest.max(of)));
            #[expect(clippy::cast_precision_loss, reason = "a number of cells")]
            let mean = total / self.cells.len().max(1) as f64;
            (mean * MEANS).max(fullest / FULLEST).ceil() + 1.0
        };
        let wants_cpu = cells.values().any(|of| of.cpu > 0.0);
        let cpu = if wants_cpu { room(|of| of.cpu) } else { 0.0 };
        Amounts { cpu, connections: room(|of| of.connections), storage: room(|of| of.storage) }
    }

    fn with_profile(&self, profile: &FleetDocument, notes: &mut Vec<String>) -> FleetDocument {
        let known_cells: BTreeMap<&str, &CellEntry> = profile.cells.iter().map(|of| (of.id.as_str(), of)).collect();
        let known: BTreeMap<&str, &TenantEntry> = profile.tenants.iter().map(|of| (of.id.as_str(), of)).collect();
        let (mut new_cells, mut new_tenants) = (0, 0);
        let tenants: Vec<TenantEntry> = self
            .tenant_entries()
            .map(|live| match known.get(live.id.as_str()) {
                Some(known) => profiled(live, known),
                None => {
                    new_tenants += 1;
                    live
                }
            })
            .collect();
        let room = self.room(&tenants);
        let mut other_kinds = Vec::new();
        let mut cell_of = |cell: &CellRecord| match known_cells.get(cell.id.as_str()) {
            Some(known) => {
                if known.kind != cell.traits.kind {
                    other_kinds.push(format!("{} is {}", cell.id, cell.traits.kind.as_str()));
                }
                merged(Self::cell_entry(cell, NO_ROOM), known)
            }
            None => {
                new_cells += 1;
                Self::cell_entry(cell, room)
            }
        };
        let cells = self.cells.iter().map(&mut cell_of).collect();
        if new_cells > 0 {
            notes.push(format!(
                "the profile lacks {}: what was declared counts, and room for four times the mean where nothing was",
                plural(new_cells, "cell")
            ));
        }
        if !other_kinds.is_empty() {
            notes.push(format!(
                "the profile says another kind than the control plane, whose word counts: {} (`cellctl cell declare` \
                 changes it)",
                other_kinds.join(", ")
            ));
        }
        if new_tenants > 0 {
            let lacking = plural(new_tenants, "tenant");
            notes.push(format!("the profile lacks {lacking}: one connection and the measured storage are assumed"));
        }
        FleetDocument { revision: self.revision, cluster: self.cluster.clone(), cells, tenants }
    }
}

/// Where it is comes from the control plane, what it wants from the profile. Storage is the larger of both.
fn profiled(live: TenantEntry, known: &TenantEntry) -> TenantEntry {
    let mut demand = known.demand.clone();
    let planned = most(&demand.storage.mean);
    if let Hourly::Flat(measured) = live.demand.storage.mean
        && measured > planned
    {
        demand.storage.mean = Hourly::Flat(measured);
    }
    TenantEntry {
        region: known.region.clone(),
        group: known.group.clone(),
        spike_cluster: known.spike_cluster.clone(),
        pin: known.pin.clone(),
        cooldown_until: known.cooldown_until.max(live.cooldown_until),
        demand,
        ..live
    }
}

/// What only the control plane can know is its own; of the rest the profile has the first word.
fn merged(live: CellEntry, known: &CellEntry) -> CellEntry {
    let first = |profile: f64, live: f64| if profile == 0.0 { live } else { profile };
    let (said, declared) = (known.capacity, live.capacity);
    CellEntry {
        capacity: Amounts {
            cpu: first(said.cpu, declared.cpu),
            connections: first(said.connections, declared.connections),
            storage: first(said.storage, declared.storage),
        },
        reserve: first(known.reserve, live.reserve),
        databases: live.databases.or(known.databases),
        domain: if known.domain.is_empty() { live.domain } else { known.domain.clone() },
        ..live
    }
}

#[expect(clippy::cast_precision_loss, reason = "the model bounds it far below")]
fn units(thousandths: u64) -> f64 {
    thousandths as f64 / 1e3
}

pub(super) fn most(hourly: &Hourly) -> f64 {
    match hourly {
        Hourly::Flat(value) => *value,
        Hourly::ByHour(values) => values.iter().copied().fold(0.0, f64::max),
    }
}

#[cfg(test)]
mod tests;
