//! `apply`: a plan becomes moves, wave by wave; proposals of tiers become tiers, and moves where a tier wants another cell.
//!
//! ```text
//! each tenant:  pending ──► running ──► done
//!                  │           └──────► failed      the first one stops everything that has not begun
//!                  └──────────────────► elsewhere   somebody else has moved it: refused
//! ```
//!
//! Nothing is remembered here: where each move stands is read from the control plane, so an `apply` that was
//! interrupted goes on when it is run again. The first run is refused unless the fleet is still at the revision that
//! the plan was made on; a later one is known by moves that were asked for with the plan's own request ids
//! (`ticket.rs`), as the audit trail tells. `--undo` goes the plan's way back, where such moves were made.

mod line;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cell_client::{ClientError, ListOptions, WriteOptions, trailer, wire};
use cell_model::{AuditEntry, MoveId, MoveOptions, Revision, TenantId};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::Instant;

use line::{Line, Standing, standing, unfit};
use work::{Step, Work};

use super::ticket::Tickets;
use super::{live, plural, source};
use crate::cli::{Apply, Output};
use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::pages::all;
use crate::render::table;
use crate::view::API_VERSION;

const POLL: Duration = Duration::from_millis(200);
/// Moves of ours that have been asked for and have not ended: the queue is for everybody, and each refusal is an entry of the audit trail.
const UNDER_WAY_MAX: usize = 64;
/// After a refusal for want of room nothing is asked for this long.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    api_version: &'a str,
    kind: &'a str,
    items: &'a [Line],
}

pub(crate) async fn run(control: Control, apply: Apply) -> Result<Exit, Failure> {
    let name = apply.file.display().to_string();
    let work = Work::read(&source::text_of(&apply.file)?, &name)?;
    work.left_out.iter().for_each(|who| console::note(&format!("left out: {who}")));
    if work.steps.is_empty() {
        return nothing(&work, &name);
    }
    let mut applying = Applying::new(control, work, &apply)?;
    applying.begin().await?;
    let bar = console::progress(applying.lines.len() as u64, "done");
    let ended = tokio::select! {
        ended = applying.until_end(&bar) => ended.map(Some),
        _ = tokio::signal::ctrl_c() => Ok(None),
    };
    bar.finish_and_clear();
    let ended = ended?;
    applying.print();
    applying.close(ended.as_ref(), &apply.file)
}

/// There is no step: nothing was to be done, or nothing of it can be.
fn nothing(work: &Work, name: &str) -> Result<Exit, Failure> {
    if work.left_out.is_empty() {
        console::note(&format!("{name} has no {}s: {}", work.noun, work.why));
        return Ok(Exit::Done);
    }
    let message = format!("nothing of {name} can be carried out: no cell admits anybody of it as proposed");
    let hint = "enroll or declare a cell that does (`cellctl cell enroll`, `cellctl cell declare`), then propose anew: \
                `cellctl plan tiers -o json`";
    Err(Failure::new("NO_CELL_ADMITS", message, hint))
}

/// How the whole of it has ended.
enum End {
    Done,
    /// The first move that has not gone as planned.
    Stopped {
        why: String,
    },
}

struct Applying {
    control: Control,
    work: Work,
    is_undo: bool,
    options: MoveOptions,
    lines: Vec<Line>,
    /// How often each was asked for.
    attempts: Vec<u64>,
    /// Moves that have been seen under way.
    moves: BTreeMap<usize, MoveId>,
    /// Moves that were asked for without an answer, and not looked at since.
    unsure: BTreeSet<usize>,
    /// There was no room for another move.
    no_room_until: Option<Instant>,
}

impl Applying {
    fn new(control: Control, work: Work, apply: &Apply) -> Result<Self, Failure> {
        let too_long = |name: &str| Failure::usage(format!("{name} is too long"), "say a shorter time");
        let options = MoveOptions {
            soak_ms: u32::try_from(apply.soak.as_millis()).map_err(|_| too_long("--soak"))?,
            bytes_per_second: apply.bytes_per_second,
            retain_ms: u64::try_from(apply.retain.as_millis()).map_err(|_| too_long("--retain"))?,
            ..MoveOptions::default()
        };
        let (steps, ..) = work.way(apply.undo);
        let pending =
            |step: &Step| Line { step: step.clone(), standing: Standing::Pending { record: Revision(0) } };
        let lines: Vec<Line> = steps.iter().map(pending).collect();
        let attempts = vec![0; lines.len()];
        let (moves, unsure, no_room_until) = (BTreeMap::new(), BTreeSet::new(), None);
        Ok(Self { control, work, is_undo: apply.undo, options, lines, attempts, moves, unsure, no_room_until })
    }

    /// Reads where everything stands, and refuses a plan whose fleet has moved on.
    async fn begin(&mut self) -> Result<(), Failure> {
        let again = "make the plan anew: `cellctl plan … -o json`";
        let here = live::cluster(&self.control).await?;
        let made_of = &self.work.cluster;
        if *made_of != here {
            let made_of = if made_of.is_empty() { "no control plane" } else { made_of.as_str() };
            let origin = &self.work.origin;
            let message = format!("the plan was made of {made_of} ({origin}), this is control plane {here}");
            return Err(Failure::new("PLAN_OTHER_CLUSTER", message, again));
        }
        let confirmed = self.control.client.confirm_revision(1, None).await?;
        let bar = console::progress(self.lines.len() as u64, "looked at");
        for index in 0..self.lines.len() {
            self.look(index).await?;
            bar.inc(1);
        }
        drop(bar);
        self.look_at_targets().await?;
        let parent = self.work.parent;
        let elsewhere = self.lines.iter().find_map(|line| match &line.standing {
            Standing::Elsewhere { why } => Some(why.clone()),
            _ => None,
        });
        if let Some(why) = elsewhere {
            let message = format!("the plan no longer fits the fleet: {why}");
            return Err(Failure::new("PLAN_STALE", message, again));
        }
        if self.is_undo {
            return self.begin_undo(parent).await;
        }
        if confirmed.revision == parent {
            return Ok(());
        }
        let begun = self.begun(parent).await?;
        if begun == 0 {
            let message =
                format!("the plan was made at revision {parent}, the fleet is at revision {}", confirmed.revision);
            return Err(Failure::new("PLAN_PARENT_MOVED", message, again));
        }
        console::note(&format!("{} of {} were begun by an earlier run: going on", begun, self.count()));
        Ok(())
    }

    /// Only what this plan has moved is taken back.
    async fn begin_undo(&self, parent: Revision) -> Result<(), Failure> {
        let begun = self.begun(parent).await?;
        if begun == 0 {
            let noun = self.work.noun;
            let message = format!("no {noun} of this plan was carried out, as far back as the audit trail goes");
            let hint = "`cellctl get moves --all` shows what was moved; make a plan of its own for the way back";
            return Err(Failure::new("PLAN_NOT_APPLIED", message, hint));
        }
        if !self.work.way(true).2 {
            console::note("note: the way back leads to what was wrong when the plan was made");
        }
        console::note(&format!("{begun} of {} were made: taking them back", self.count()));
        Ok(())
    }

    /// Before the first move is made, not when it is the turn of the one that cannot be.
    async fn look_at_targets(&self) -> Result<(), Failure> {
        let cells = all(|options| self.control.client.list_cells(options)).await?;
        let Some(why) = self.lines.iter().find_map(|line| unfit(line, &cells)) else { return Ok(()) };
        let message = format!("the plan does not fit the fleet: {why}");
        let hint = "`cellctl get cells` shows them; mend it, or make the plan anew: `cellctl plan … -o json`";
        Err(Failure::new("PLAN_STALE", message, hint))
    }

    fn count(&self) -> String {
        plural(self.lines.len(), self.work.noun)
    }

    /// How many steps of the way forwards were asked for by an earlier run.
    async fn begun(&self, parent: Revision) -> Result<usize, Failure> {
        let (steps, tickets, _) = self.work.way(false);
        let mut begun = 0;
        for step in steps {
            // Most tenants have not been moved since: the trail is not read for them.
            let may_have = !step.is_move() || self.has_moved_since(&step.tenant, parent).await?;
            if may_have && self.was_asked(&step.tenant, tickets).await? {
                begun += 1;
            }
        }
        Ok(begun)
    }

    async fn has_moved_since(&self, tenant: &TenantId, parent: Revision) -> Result<bool, Failure> {
        let filter = tenant.to_string();
        let options = ListOptions { filter, include_ended: true, page_size: 50, ..ListOptions::default() };
        let moves = self.control.client.list_moves(options).await?.items;
        let since = |of: &wire::Move| of.id.parse::<MoveId>().is_ok_and(|id| id.0 > parent.get());
        Ok(moves.iter().any(since))
    }

    /// Whether the audit trail has something of that tenant that was asked for with these tickets and done.
    async fn was_asked(&self, tenant: &TenantId, tickets: &Tickets) -> Result<bool, Failure> {
        let mut after = 0;
        loop {
            let page = self.control.client.list_audit(after, Some(tenant)).await?;
            let is_ours = |of: &AuditEntry| {
                let ours = of.request_id.is_some_and(|id| tickets.is_ours(tenant, id));
                matches!(of.action.as_str(), "move-tenant" | "set-tier") && of.outcome == "done" && ours
            };
            if page.entries.iter().any(is_ours) {
                return Ok(true);
            }
            let Some(next) = page.next else { return Ok(false) };
            after = next;
        }
    }

    async fn until_end(&mut self, bar: &ProgressBar) -> Result<End, Failure> {
        let waves = self.lines.iter().map(|line| line.step.wave).max().unwrap_or_default();
        for wave in 1..=waves {
            let of_wave: Vec<usize> =
                (0..self.lines.len()).filter(|&at| self.lines[at].step.wave == wave).collect();
            let mut stopped = None;
            loop {
                for &index in &of_wave {
                    if let Some(why) = self.advance(index, stopped.is_some()).await? {
                        stopped.get_or_insert(why);
                    }
                }
                bar.set_position(self.in_standing(|of| *of == Standing::Done) as u64);
                bar.set_message(self.under_way(wave, waves));
                let open = of_wave.iter().any(|&at| match self.lines[at].standing {
                    Standing::Pending { .. } => stopped.is_none() || self.unsure.contains(&at),
                    Standing::Running { .. } => true,
                    Standing::Done | Standing::Failed { .. } | Standing::Elsewhere { .. } => false,
                });
                if !open {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
            if let Some(why) = stopped {
                return Ok(End::Stopped { why });
            }
        }
        Ok(End::Done)
    }

    /// Looks where a move stands and begins it where it is due; says why everything must stop, if it must.
    async fn advance(&mut self, index: usize, stopping: bool) -> Result<Option<String>, Failure> {
        if self.lines[index].standing == Standing::Done {
            return Ok(None);
        }
        match self.look(index).await {
            Ok(()) => {}
            // The moves do not need us: look again.
            Err(failure) if failure.exit == Exit::Unavailable => return Ok(None),
            Err(failure) => return Err(failure),
        }
        let line = &self.lines[index];
        match &line.standing {
            Standing::Pending { record } if !stopping && self.may_ask(&line.step) => {
                self.start(index, *record).await
            }
            Standing::Failed { id, why } => Ok(Some(format!("{id} of tenant {} {why}", line.step.tenant))),
            Standing::Elsewhere { why } => Ok(Some(why.clone())),
            Standing::Pending { .. } | Standing::Running { .. } | Standing::Done => Ok(None),
        }
    }

    fn may_ask(&self, step: &Step) -> bool {
        let has_room = self.no_room_until.is_none_or(|until| Instant::now() >= until);
        let under_way = || self.in_standing(|of| matches!(of, Standing::Running { .. }));
        has_room && (!step.is_move() || under_way() < UNDER_WAY_MAX)
    }

    async fn start(&mut self, index: usize, record: Revision) -> Result<Option<String>, Failure> {
        let step = self.lines[index].step.clone();
        let (_, tickets, _) = self.work.way(self.is_undo);
        let request_id = tickets.request(&step.tenant, record, self.attempts[index]);
        self.attempts[index] += 1;
        // Refused if anybody has touched the tenant since it was looked at.
        let write = WriteOptions {
            request_id: Some(request_id),
            expected_revision: Some(record),
            ..WriteOptions::default()
        };
        match self.ask(index, &step, write).await {
            Ok(()) => Ok(None),
            // Looking again tells what has become of it.
            Err(ClientError::Unknown { .. } | ClientError::Unavailable { .. }) => {
                self.unsure.insert(index);
                Ok(None)
            }
            Err(ClientError::Rejected { code, .. }) if code == "STALE_REVISION" => Ok(None),
            // When moves have ended, or with room on the disk again, it goes on.
            Err(ClientError::Rejected { code, .. })
                if matches!(code.as_str(), "MOVE_LIMIT" | trailer::DISK_FULL) =>
            {
                self.no_room_until = Some(Instant::now() + NO_ROOM_PAUSE);
                Ok(None)
            }
            Err(ClientError::Rejected { code, message, .. }) => {
                let why = format!("tenant {} was refused: {message} ({code})", step.tenant);
                self.lines[index].standing =
                    Standing::Failed { id: format!("no {}", self.work.noun), why: why.clone() };
                Ok(Some(why))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for a move, or for another tier where the tenant is.
    async fn ask(&mut self, index: usize, step: &Step, write: WriteOptions) -> Result<(), ClientError> {
        let Step { wave, tenant, source, target, tiers, reason } = step;
        match tiers {
            Some(tiers) if !step.is_move() => {
                self.control.client.set_tier(tenant, tiers.to, write).await?;
                console::note(&format!("{tenant} on {source}: {} → {}", tiers.from.as_str(), tiers.to.as_str()));
                self.lines[index].standing = Standing::Done;
            }
            _ => {
                let tier = tiers.map(|tiers| tiers.to);
                let options = MoveOptions { reason: reason.clone(), tier, ..self.options.clone() };
                let (id, _) = self.control.client.move_tenant(tenant, target, options, write).await?;
                console::note(&format!("wave {wave}: {id} {tenant} {source} → {target}"));
                self.moves.insert(index, id);
                self.lines[index].standing = Standing::Running { id: id.to_string(), phase: "asked for".into() };
            }
        }
        Ok(())
    }

    /// Reads where one move stands.
    async fn look(&mut self, index: usize) -> Result<(), Failure> {
        let line = &self.lines[index];
        if matches!(line.standing, Standing::Failed { .. }) {
            return Ok(());
        }
        let record = match self.control.client.get_tenant(&line.step.tenant).await {
            Ok(record) => record,
            Err(ClientError::Rejected { message, .. }) => {
                self.lines[index].standing = Standing::Elsewhere { why: message };
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let ended = match (self.moves.get(&index), &record.r#move) {
            (Some(id), None) => Some(self.control.client.get_move(*id).await?),
            _ => None,
        };
        let standing = standing(&line.step, &record, ended.as_ref());
        if let Standing::Running { id, .. } = &standing
            && let Ok(id) = id.parse::<MoveId>()
        {
            self.moves.insert(index, id);
        }
        self.lines[index].standing = standing;
        self.unsure.remove(&index);
        Ok(())
    }

    fn in_standing(&self, of: impl Fn(&Standing) -> bool) -> usize {
        self.lines.iter().filter(|line| of(&line.standing)).count()
    }

    fn under_way(&self, wave: usize, waves: usize) -> String {
        let running = self.lines.iter().filter_map(|line| match &line.standing {
            Standing::Running { phase, .. } => Some(format!("{} {phase}", line.step.tenant)),
            _ => None,
        });
        format!("wave {wave} of {waves} · {}", running.collect::<Vec<_>>().join(", "))
    }

    fn print(&self) {
        let run = Run { api_version: API_VERSION, kind: "PlanRun", items: &self.lines };
        let columns = if self.lines.iter().any(|line| line.step.tiers.is_some()) {
            ["TIER", "TENANT", "FROM", "TO", "STATUS", "MOVE"]
        } else {
            ["WAVE", "TENANT", "FROM", "TO", "STATUS", "MOVE"]
        };
        console::data(&match self.control.global.output {
            Output::Table | Output::Html => {
                let rows = (0..self.lines.len()).map(|index| self.row(index));
                table(&columns, rows, !self.control.global.no_headers)
            }
            Output::Json => super::to_json(&run),
            Output::Name => self.lines.iter().map(|line| format!("tenant/{}\n", line.step.tenant)).collect(),
        });
    }

    fn row(&self, index: usize) -> Vec<String> {
        let line = &self.lines[index];
        let status = match &line.standing {
            Standing::Pending { .. } => "not begun".to_owned(),
            Standing::Running { phase, .. } => format!("running: {phase}"),
            Standing::Done => "done".to_owned(),
            Standing::Failed { why, .. } | Standing::Elsewhere { why } => format!("failed: {why}"),
        };
        let id = self.moves.get(&index).map_or_else(|| "-".to_owned(), ToString::to_string);
        let Step { wave, tenant, source, target, tiers, .. } = &line.step;
        let first =
            tiers.map_or_else(|| wave.to_string(), |of| format!("{} → {}", of.from.as_str(), of.to.as_str()));
        vec![first, tenant.to_string(), source.to_string(), target.to_string(), status, id]
    }

    fn close(&self, end: Option<&End>, file: &Path) -> Result<Exit, Failure> {
        let done = self.in_standing(|of| *of == Standing::Done);
        let pending = self.in_standing(|of| matches!(of, Standing::Pending { .. }));
        let undo = if self.is_undo { " --undo" } else { "" };
        let again = format!("`cellctl apply -f {}{undo}` goes on where it stands", file.display());
        match end {
            Some(End::Done) => {
                console::note(&format!("{} of {} done", done, self.count()));
                Ok(Exit::Done)
            }
            Some(End::Stopped { why }) => {
                let message = format!("{why}; {done} of {} done, {pending} not begun", self.count());
                let hint = format!("`cellctl get moves --all` shows why; {again}, or make a new plan");
                Err(Failure { exit: Exit::NotMoved, ..Failure::new("PLAN_STOPPED", message, hint) })
            }
            None => {
                console::note(&format!("detached; running moves go on, {pending} have not begun; {again}"));
                Ok(Exit::Done)
            }
        }
    }
}
