//! Placement as people touch it: plans, explanations, and plans that are carried out.
//!
//! ```text
//! fleet file ──► source ─┐                    ┌─► text, html, JSON
//!                        ├─► Fleet ─► planner ┤
//! control plane ─► live ─┘                    └─► JSON ─► apply ─► moves, wave by wave
//! ```
//!
//! Everything that is decided is decided by `cell-planner`, which is pure; here it gets its fleet, its clock and its
//! questions, and its answers are made readable. With `--fleet` no control plane is asked at all.

mod apply;
mod ask;
mod capacity;
mod chart;
mod document;
mod explain;
mod html;
mod live;
mod place;
mod ring;
mod simulate;
mod source;
mod text;
mod ticket;
mod tiers;
mod usage;

use std::time::Duration;

use cell_model::CellId;
use cell_planner::{Fleet, HomeRing, Policy, RingOptions};
use serde::Serialize;

use crate::cli::{FleetArgs, Global, JudgeArgs};
use crate::commands::{connect, on_runtime};
use crate::console;
use crate::failure::Failure;

use live::Taken;

pub(crate) use apply::run as apply;
pub(crate) use ask::run;
pub(crate) use explain::run as explain;
pub(crate) use simulate::run as simulate;

/// A fleet, and where it comes from.
struct Loaded {
    fleet: Fleet,
    /// Where it comes from, for people.
    origin: String,
    /// There is a control plane behind it.
    is_live: bool,
    /// Cells whose room is assumed, because nobody has said how much it is.
    assumed: Vec<CellId>,
}

/// The fleet that the command line names.
fn load(global: &Global, of: &FleetArgs) -> Result<Loaded, Failure> {
    load_cooling(global, of, None)
}

/// The same. `cooldown`: whoever has moved in a live fleet is left alone for so long.
fn load_cooling(global: &Global, of: &FleetArgs, cooldown: Option<Duration>) -> Result<Loaded, Failure> {
    if let Some(path) = &of.fleet {
        let fleet = console::while_waiting(&format!("reading {}", path.display()), || source::read(path))?;
        if path.is_dir() {
            // Tables that end early are still tables.
            let (cells, tenants) = (plural(fleet.cells().len(), "cell"), plural(fleet.tenants().len(), "tenant"));
            console::note(&format!("note: {} has {cells} and {tenants}", path.display()));
        }
        return Ok(Loaded { fleet, origin: path.display().to_string(), is_live: false, assumed: Vec::new() });
    }
    let profile = of.profile.as_deref().map(source::read).transpose()?;
    let asked = connect(global).map_err(|failure| Failure {
        hint: format!("{}; or plan without a control plane: --fleet FILE", failure.hint),
        ..failure
    })?;
    let reading = || on_runtime(live::take(&asked, profile.as_ref(), cooldown));
    let Taken { fleet, notes, assumed } = console::while_waiting("reading the fleet", reading)?;
    notes.iter().for_each(|note| console::note(&format!("note: {note}")));
    Ok(Loaded { fleet, origin: "the control plane".into(), is_live: true, assumed })
}

/// The numbers that a fleet is judged by.
fn policy(judge: &JudgeArgs) -> Result<Policy, Failure> {
    let Some(path) = &judge.policy else { return Ok(Policy::default()) };
    let wrong = |error: serde_json::Error| {
        let hint = "correct it there; docs/placement.md shows one, and what is left out is as usual";
        Failure::option("POLICY_INVALID", format!("{} is no policy: {error}", path.display()), hint)
    };
    let policy: Policy = serde_json::from_str(&source::text_of(path)?).map_err(wrong)?;
    policy.check().map_err(|invalid| {
        Failure::option("POLICY_INVALID", format!("{}: {invalid}", path.display()), "correct that number there")
    })?;
    Ok(policy)
}

/// Default homes of tenants on the cells of a fleet.
fn ring(fleet: &Fleet, judge: &JudgeArgs) -> Result<HomeRing, Failure> {
    ring_of(fleet.cells().map(|cell| fleet.cell_id(cell).clone()), judge.seed)
}

/// Default homes of tenants on these cells.
fn ring_of(cells: impl IntoIterator<Item = CellId>, seed: Option<u64>) -> Result<HomeRing, Failure> {
    let options = RingOptions::default();
    let options = RingOptions { seed: seed.unwrap_or(options.seed), ..options };
    HomeRing::build(cells, options)
        .map_err(|error| Failure::new("FLEET_TOO_LARGE", error.to_string(), "split the fleet by region"))
}

fn plural(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn to_json(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("documents have string keys only");
    text.push('\n');
    text
}
