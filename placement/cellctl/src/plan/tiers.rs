//! `plan tiers`: who has outgrown its tier, and who no longer needs it, with what another one would cost. As JSON the list is what
//! `apply` carries out.
//!
//! A proposal wants days in a row. With `--watch` they are counted in a file, one for each day on which the command is
//! run; without it, today's demand is taken to have been so for `--days`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use cell_model::{CellId, Revision, TenantId, Tier};
use cell_planner::{Fleet, Layout, PolicyInvalid, Proposal, TierPolicy, TierWatch};
use serde::{Deserialize, Serialize};

use super::text::{percent, seconds, size};
use super::{ask, html, load, place, plural, policy, ring, source};
use crate::cli::{Global, Output, Tiers};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::API_VERSION;

/// Proposals, and what they were judged by.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proposals {
    api_version: String,
    kind: String,
    pub(super) origin: String,
    /// The control plane that they were made of; nothing of a file that names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) cluster: String,
    pub(super) parent: Revision,
    pub(super) policy: TierPolicy,
    /// Tenants that ask for another tier, and have not asked for long enough yet.
    pub(super) waiting: usize,
    /// Of a live fleet.
    #[serde(skip)]
    is_live: bool,
    /// Cells whose capacity nobody has declared: a share of one is a share of what is assumed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) assumed: Vec<CellId>,
    /// Cells on which somebody would be gold, and of which nobody has said whether each tenant has a database of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) databases_unsaid: Vec<CellId>,
    pub(super) items: Vec<Item>,
}

/// A proposal, and how it is carried out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Item {
    /// The cell that the tenant is on.
    pub(super) cell: CellId,
    #[serde(flatten)]
    pub(super) of: Proposal,
    /// The share stands on a capacity that is assumed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) assumed: bool,
    /// The command; nothing of a fleet in a file, and where no cell admits the tenant so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<String>,
}

impl Proposals {
    /// As the document says what it is.
    pub(super) const KIND: &'static str = "TierProposalList";

    pub(super) fn of(fleet: &Fleet, origin: String, policy: TierPolicy, proposed: Vec<Proposal>) -> Self {
        let item = |of: Proposal| {
            let home = fleet.find_tenant(of.tenant.as_str()).and_then(|tenant| fleet.home(tenant))?;
            Some(Item { cell: fleet.cell_id(home).clone(), of, assumed: false, command: None })
        };
        let items: Vec<Item> = proposed.into_iter().filter_map(item).collect();
        let golden =
            items.iter().filter(|item| item.of.to == Tier::Gold).filter_map(|item| item.of.cost.target.as_ref());
        let is_unsaid =
            |cell: &&CellId| fleet.find_cell(cell.as_str()).is_some_and(|cell| fleet.databases(cell).is_none());
        Self {
            api_version: API_VERSION.into(),
            kind: Self::KIND.into(),
            origin,
            cluster: fleet.cluster().into(),
            parent: fleet.revision(),
            policy,
            waiting: 0,
            is_live: false,
            assumed: Vec::new(),
            databases_unsaid: ask::unique(golden.filter(is_unsaid).cloned().collect()),
            items,
        }
    }

    /// Reads what was written as JSON.
    ///
    /// # Errors
    /// It is something else, or contradicts itself.
    pub(super) fn from_json(text: &str, name: &str) -> Result<Self, Failure> {
        let wrong = |reason: String| {
            let message = format!("{name} is no list of proposals: {reason}");
            Failure::new("PLAN_SYNTAX", message, "write it anew with `cellctl plan tiers -o json`")
        };
        let list: Self = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if list.api_version != API_VERSION {
            let version = &list.api_version;
            return Err(wrong(format!("its version is {version:?}, this program reads {API_VERSION:?}")));
        }
        let mut known = BTreeSet::new();
        for Item { of, .. } in &list.items {
            if of.from == of.to {
                let tier = of.to.as_str();
                return Err(wrong(format!("tenant {} is proposed {tier}, the tier that it has", of.tenant)));
            }
            if !known.insert(&of.tenant) {
                return Err(wrong(format!("tenant {} is proposed another tier twice", of.tenant)));
            }
        }
        Ok(list)
    }

    /// Each with the command that carries it out, and with what its share stands on.
    fn live(mut self, assumed: Vec<CellId>) -> Self {
        for item in &mut self.items {
            item.command = command(&item.of);
            item.assumed = assumed.contains(&item.cell);
        }
        Self { is_live: true, assumed, ..self }
    }
}

fn command(of: &Proposal) -> Option<String> {
    let (tenant, tier) = (&of.tenant, of.to.as_str());
    let target = of.cost.target.as_ref()?;
    Some(if of.cost.moves {
        format!("cellctl move tenant {tenant} --to {target} --tier {tier}")
    } else {
        format!("cellctl tenant set {tenant} --tier {tier}")
    })
}

/// What is remembered of those who are asked about: of all where nobody is named.
fn only(watch: &TierWatch, named: &[TenantId]) -> TierWatch {
    let asked = watch.streaks.iter().filter(|(id, _)| named.is_empty() || named.contains(id));
    TierWatch { day: watch.day, streaks: asked.map(|(id, streak)| (id.clone(), *streak)).collect() }
}

pub(super) fn run(global: &Global, asked: &Tiers) -> Result<Exit, Failure> {
    asked.unbounded.check("plan tiers")?;
    let loaded = load(global, &asked.of)?;
    asked.tenants.iter().try_for_each(|tenant| place::find(&loaded, tenant).map(drop))?;
    let (tiers, ring) = (tier_policy(asked.tier_policy.as_deref())?, ring(&loaded.fleet, &asked.judge)?);
    let layout = Layout::new(&loaded.fleet, policy(&asked.judge)?);
    let mut watch = asked.watch.as_deref().map_or_else(|| Ok(TierWatch::default()), read)?;
    let wrong = |invalid: PolicyInvalid| refused(&invalid.to_string());
    if let Some(path) = &asked.watch {
        let at = asked.at.unwrap_or_else(ask::now);
        if !watch.observe_on(at, &layout, &tiers).map_err(wrong)? {
            console::note(&format!("note: {} has counted this day already", path.display()));
        }
    } else {
        let bar = console::progress(asked.days.into(), "days");
        for _ in 0..asked.days {
            watch.observe(&layout, &tiers).map_err(wrong)?;
            bar.inc(1);
        }
    }
    let due = only(&watch, &asked.tenants);
    let proposed = console::while_waiting("looking for cells", || due.proposals(&layout, Some(&ring), &tiers));
    if let Some(path) = &asked.watch {
        write(path, &watch)?;
    }
    let waiting = due.streaks.len() - proposed.len();
    let proposals = Proposals { waiting, ..Proposals::of(&loaded.fleet, loaded.origin, tiers, proposed) };
    let proposals = if loaded.is_live { proposals.live(loaded.assumed) } else { proposals };
    console::data(&match global.output {
        Output::Table => text(&proposals, !global.no_headers),
        Output::Json => super::to_json(&proposals),
        Output::Name => proposals.items.iter().map(|item| format!("tenant/{}\n", item.of.tenant)).collect(),
        Output::Html => html::tiers(&proposals),
    });
    Ok(Exit::Done)
}

fn refused(reason: &str) -> Failure {
    let hint = "correct the file of --tier-policy; docs/placement.md shows one, and what is left out is as usual";
    Failure::option("POLICY_INVALID", reason, hint)
}

fn tier_policy(path: Option<&Path>) -> Result<TierPolicy, Failure> {
    let Some(path) = path else { return Ok(TierPolicy::default()) };
    serde_json::from_str(&source::text_of(path)?)
        .map_err(|error| refused(&format!("{} is no policy of tiers: {error}", path.display())))
}

/// What has been seen on the days before; nothing where the file is not there yet.
fn read(path: &Path) -> Result<TierWatch, Failure> {
    if !path.exists() {
        return Ok(TierWatch::default());
    }
    serde_json::from_str(&source::text_of(path)?).map_err(|error| {
        let message = format!("{} does not hold what has been seen: {error}", path.display());
        Failure::new("TIER_WATCH_SYNTAX", message, "put the file back, or remove it to begin counting anew")
    })
}

/// Beside it first, so that a run that is cut short forgets nothing.
fn write(path: &Path, watch: &TierWatch) -> Result<(), Failure> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let put = || {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(super::to_json(watch).as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    put().map_err(|error| {
        let error = anyhow::Error::from(error).context(format!("cannot write {}", path.display()));
        Failure::local("FILE_WRITE", &error, "choose another --watch")
    })
}

fn text(proposals: &Proposals, headers: bool) -> String {
    let mut text = format!("{}\n", heading(proposals));
    if let Some(told) = assumed(proposals) {
        text.push_str(&format!("  {told}\n"));
    }
    if let Some(told) = databases_unsaid(proposals) {
        text.push_str(&format!("  {told}\n"));
    }
    if proposals.items.is_empty() {
        return text;
    }
    text.push('\n');
    let columns = ["TENANT", "HAS", "WANTS", "DAYS", "LARGEST SHARE", "ON", "COPIES", "TAKES", "LEAVES IDLE"];
    text.push_str(&table(&columns, proposals.items.iter().map(row), headers));
    text.push_str(&format!("\nnext: {}\n", next(proposals)));
    for command in proposals.items.iter().filter_map(|item| item.command.as_ref()).take(COMMANDS_SHOWN) {
        text.push_str(&format!("  {command}\n"));
    }
    let more = commands(proposals).saturating_sub(COMMANDS_SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} more: -o json has them\n"));
    }
    text
}

/// Commands that the text shows.
const COMMANDS_SHOWN: usize = 10;

fn commands(proposals: &Proposals) -> usize {
    proposals.items.iter().filter(|item| item.command.is_some()).count()
}

/// What to do with proposals.
pub(super) fn next(proposals: &Proposals) -> &'static str {
    if commands(proposals) > 0 {
        "a tier is what a tenant has paid for: agree it there, then run the command of that tenant; or all of them: \
         `cellctl plan tiers -o json > tiers.json` (with the names of those who agree), `cellctl apply -f tiers.json`"
    } else if proposals.is_live {
        "no cell admits any of them so: declare an empty one, or enroll one (`cellctl cell enroll NAME --agent HOST:PORT --kind dedicated`), \
         and ask again"
    } else {
        "a tier is what a tenant has paid for: agree it there, change it in the fleet, then plan a repair"
    }
}

/// On what shares stand of which nobody has said anything, if there are such.
pub(super) fn assumed(proposals: &Proposals) -> Option<String> {
    let cells = &proposals.assumed;
    let shares = proposals.items.iter().filter(|item| item.assumed).count();
    let stand = match shares {
        0 => "no proposal stands on it".to_owned(),
        1 => "1 proposal stands on it, and says little".to_owned(),
        shares => format!("{shares} proposals stand on it, and say little"),
    };
    let command = format!("cellctl cell declare {} --capacity connections=…,storage=…", cells.first()?);
    Some(format!(
        "assumed: of {} nobody has declared the capacity, and room for four times the mean of all cells is taken; {stand}: `{command}`",
        named(cells)
    ))
}

/// That it is not known whether gold is there what it is sold as, if so.
pub(super) fn databases_unsaid(proposals: &Proposals) -> Option<String> {
    let cells = &proposals.databases_unsaid;
    let first = cells.first()?;
    let say = if proposals.is_live {
        format!("`cellctl cell declare {first} --databases own|shared`")
    } else {
        "say it in the fleet, as `databases` of the cell".to_owned()
    };
    Some(format!(
        "not known: of {} nobody has said whether each tenant has a database of its own there, as gold has; {say}",
        named(cells)
    ))
}

/// Some cells, by name.
fn named(cells: &[CellId]) -> String {
    let first: Vec<&str> = cells.iter().take(CELLS_NAMED).map(CellId::as_str).collect();
    let more = if cells.len() > first.len() { " …" } else { "" };
    format!("{} {}{more}", if cells.len() == 1 { "cell" } else { "cells" }, first.join(", "))
}

/// Cells that are named.
const CELLS_NAMED: usize = 5;

/// All of it in a sentence.
pub(super) fn heading(proposals: &Proposals) -> String {
    let Proposals { origin, parent, items, waiting, .. } = proposals;
    let up = items.iter().filter(|item| item.of.to > item.of.from).count();
    let who = plural(items.len(), "tenant");
    let waiting = match waiting {
        0 => String::new(),
        count => format!(
            "; {} not asked for long enough, or {} being moved",
            if *count == 1 { "1 more has".into() } else { format!("{count} more have") },
            if *count == 1 { "is" } else { "are" }
        ),
    };
    format!(
        "tiers of {origin} at revision {parent}: another one is proposed for {who}, {up} of them a higher one{waiting}"
    )
}

/// A proposal's numbers.
pub(super) fn row(item: &Item) -> Vec<String> {
    let Item { of, assumed, .. } = item;
    let (cost, assumed) = (&of.cost, if *assumed { " (assumed)" } else { "" });
    let on = match (&cost.target, cost.moves) {
        (None, _) => "no cell admits it so".to_owned(),
        (Some(cell), true) => format!("moves to {cell}"),
        (Some(cell), false) => format!("stays on {cell}"),
    };
    let dash = || "-".to_owned();
    vec![
        of.tenant.to_string(),
        of.from.as_str().to_owned(),
        of.to.as_str().to_owned(),
        of.days.to_string(),
        format!("{} {}{assumed}", percent(of.signal.share), of.signal.at),
        on,
        if cost.moves { size(cost.bytes) } else { dash() },
        if cost.moves { seconds(cost.seconds) } else { dash() },
        cost.idle.map_or_else(dash, |idle| {
            format!("{:.1} cores, {:.0} connections, {:.0} GB", idle.cpu, idle.connections, idle.storage)
        }),
    ]
}
