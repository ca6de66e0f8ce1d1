//! `plan tiers`: who has outgrown its tier, and who no longer needs it, with what another one would cost.
//!
//! A proposal wants days in a row. With `--watch` they are counted in a file, one for each day on which the command is
//! run; without it, today's demand is taken to have been so for `--days`.

use std::io::Write;
use std::path::Path;

use cell_model::{Revision, Tier};
use cell_planner::{Layout, PolicyInvalid, Proposal, TierPolicy, TierWatch};
use serde::Serialize;

use super::text::{percent, seconds, size};
use super::{ask, html, load, plural, policy, ring, source};
use crate::cli::{Global, Output, Tiers};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::API_VERSION;

/// Proposals, and what they were judged by.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proposals {
    api_version: &'static str,
    kind: &'static str,
    pub(super) origin: String,
    pub(super) parent: Revision,
    pub(super) policy: TierPolicy,
    /// Tenants that ask for another tier, and have not asked for long enough yet.
    pub(super) waiting: usize,
    pub(super) items: Vec<Proposal>,
}

pub(super) fn run(global: &Global, asked: &Tiers) -> Result<Exit, Failure> {
    asked.unbounded.check("plan tiers")?;
    let loaded = load(global, &asked.of)?;
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
        for _ in 0..asked.days {
            watch.observe(&layout, &tiers).map_err(wrong)?;
        }
    }
    let items = watch.proposals(&layout, Some(&ring), &tiers);
    if let Some(path) = &asked.watch {
        write(path, &watch)?;
    }
    let proposals = Proposals {
        api_version: API_VERSION,
        kind: "TierProposalList",
        parent: loaded.fleet.revision(),
        origin: loaded.origin,
        policy: tiers,
        waiting: watch.streaks.len() - items.len(),
        items,
    };
    console::data(&match global.output {
        Output::Table => text(&proposals, !global.no_headers),
        Output::Json => super::to_json(&proposals),
        Output::Name => proposals.items.iter().map(|of| format!("tenant/{}\n", of.tenant)).collect(),
        Output::Html => html::tiers(&proposals),
    });
    Ok(Exit::Done)
}

fn refused(reason: &str) -> Failure {
    Failure::new("POLICY_INVALID", reason, "correct the file of --tier-policy")
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

pub(super) const fn name(tier: Tier) -> &'static str {
    match tier {
        Tier::Bronze => "bronze",
        Tier::Silver => "silver",
        Tier::Gold => "gold",
        Tier::Platinum => "platinum",
    }
}

fn text(proposals: &Proposals, headers: bool) -> String {
    let mut text = format!("{}\n", heading(proposals));
    if proposals.items.is_empty() {
        return text;
    }
    let columns = ["TENANT", "HAS", "WANTS", "DAYS", "LARGEST SHARE", "ON", "COPIES", "TAKES", "LEAVES IDLE"];
    text.push('\n');
    text.push_str(&table(&columns, proposals.items.iter().map(row), headers));
    text.push_str(&format!("\nnext: {NEXT}\n"));
    text
}

/// What to do with proposals.
pub(super) const NEXT: &str =
    "a tier is what a tenant has paid for: agree it there, change it in the fleet, then plan a repair";

/// All of it in a sentence.
pub(super) fn heading(proposals: &Proposals) -> String {
    let Proposals { origin, parent, items, waiting, .. } = proposals;
    let up = items.iter().filter(|of| of.to > of.from).count();
    let who = plural(items.len(), "tenant");
    let waiting = match waiting {
        0 => String::new(),
        count => format!(
            "; {} not asked for long enough",
            if *count == 1 { "1 more has".into() } else { format!("{count} more have") }
        ),
    };
    format!(
        "tiers of {origin} at revision {parent}: another one is proposed for {who}, {up} of them a higher one{waiting}"
    )
}

/// A proposal's numbers.
pub(super) fn row(of: &Proposal) -> Vec<String> {
    let cost = &of.cost;
    let on = match (&cost.target, cost.moves) {
        (None, _) => "no cell admits it so".to_owned(),
        (Some(cell), true) => format!("moves to {cell}"),
        (Some(cell), false) => format!("stays on {cell}"),
    };
    let dash = || "-".to_owned();
    vec![
        of.tenant.to_string(),
        name(of.from).to_owned(),
        name(of.to).to_owned(),
        of.days.to_string(),
        format!("{} {}", percent(of.signal.share), of.signal.at),
        on,
        if cost.moves { size(cost.bytes) } else { dash() },
        if cost.moves { seconds(cost.seconds) } else { dash() },
        cost.idle.map_or_else(dash, |idle| {
            format!("{:.1} cores, {:.0} connections, {:.0} GB", idle.cpu, idle.connections, idle.storage)
        }),
    ]
}
