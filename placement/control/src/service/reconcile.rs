//! After a restore: every cell is asked what it holds, and the highest grant of each tenant is adopted.
//!
//! ```text
//! dry run:  ask every cell ──► judge each tenant ──► report
//! adopt:    tell every cell the new lineage ──► ask ──► judge ──► nothing contradictory? ──► Adopt, each ──► Reconciled
//! ```
//! Once a cell has heard of the new lineage it refuses the steps of every older control plane, so what it says then
//! stays true: nobody else changes a grant. Judged is in the model, and once more where the command is applied.

use std::collections::{BTreeMap, BTreeSet};

use cell_client::{AgentOptions, AgentPool, StepContext, StepError};
use cell_model::{
    Attempt, CellId, CellState, Command, Envelope, Epoch, Fleet, FleetView, Held, Rejected, Stamp, TenantId, Term,
    Uid, Verdict, judge,
};
use cell_protos::{Malformed, v1};
use futures::{StreamExt, TryStreamExt, stream};
use tonic::{Code, Status};

use super::Ground;
use crate::refusal::{malformed, refusal, rejected};

/// Findings that are told one by one.
const FINDINGS_MAX: usize = 1_000;
/// Tenants that are looked at before others may apply.
const JUDGED_AT_ONCE: usize = 500;
/// Cells that are asked at once, and commands on their way at once.
const AT_ONCE: usize = 64;

/// What is asked for.
pub(super) struct Wanted {
    pub(super) adopt: bool,
    pub(super) without: BTreeSet<CellId>,
}

impl Wanted {
    pub(super) fn read(wire: v1::ReconcileRequest) -> Result<Self, Status> {
        let id = |name: String| {
            name.parse().map_err(|invalid: cell_model::InvalidId| {
                malformed(&Malformed::new("without", invalid.to_string()))
            })
        };
        let without = wire.without.into_iter().map(id).collect::<Result<_, Status>>()?;
        Ok(Self { adopt: wire.adopt, without })
    }
}

/// A cell that is to be asked.
struct Asked {
    cell: CellId,
    agent: String,
    left_out: bool,
}

type Answers = Vec<(Asked, Result<Vec<(TenantId, Held)>, StepError>)>;

/// Asks, and adopts where that is wanted and nothing is in the way. `by` is written into the audit trail.
pub(super) async fn reconcile(
    ground: &Ground,
    wanted: Wanted,
    by: String,
) -> Result<v1::ReconcileResponse, Status> {
    ground.leading()?;
    ground.readable(false).await?;
    let needed = ground.view(FleetView::unreconciled);
    let mut answer = v1::ReconcileResponse { needed, done: !needed, ..v1::ReconcileResponse::default() };
    (answer.lineage, answer.revision) =
        ground.view(|fleet| (fleet.head().lineage.get(), fleet.head().revision.get()));
    if !needed {
        return Ok(answer);
    }
    let cells = cells_of(ground, &wanted)?;
    let term = ground.store.leadership().borrow().term;
    let heard = ask(ground, cells, wanted.adopt.then_some(term)).await;
    let mut holdings: BTreeMap<TenantId, Vec<Held>> = BTreeMap::new();
    let (mut spoke, mut silent) = (Vec::new(), BTreeMap::new());
    for (asked, said) in heard {
        let mut cell = v1::ReconcileCell { cell: asked.cell.to_string(), ..v1::ReconcileCell::default() };
        cell.left_out = asked.left_out;
        match said {
            Ok(held) => {
                cell.grants = held.len() as u64;
                held.into_iter().for_each(|(tenant, held)| holdings.entry(tenant).or_default().push(held));
                spoke.push(asked.cell);
            }
            Err(error) => {
                cell.failure = error.to_string();
                if !asked.left_out {
                    silent.insert(asked.cell, error);
                }
            }
        }
        answer.cells.push(cell);
    }
    let unheard = silent.keys().cloned().collect();
    let judged = judge_all(ground, &holdings, &unheard, &mut answer).await;
    if !wanted.adopt {
        return Ok(answer);
    }
    if let Some((cell, error)) = silent.first_key_value() {
        return Err(not_heard(cell, error));
    }
    if let Some((tenant, reason)) = judged.contradictory {
        return Err(rejected(&Rejected::GrantsContradict { tenant, reason }));
    }
    adopt(ground, judged.to_adopt, &mut holdings, &by).await?;
    let without = wanted.without.into_iter().collect();
    let command = Command::Reconciled { heard: spoke, without };
    let (revision, _) = ground.submit(Envelope { actor: by, ..Envelope::new(ground.now(), command) }).await?;
    (answer.revision, answer.done) = (revision.get(), true);
    Ok(answer)
}

/// A cell that knows of a higher lineage belongs to another restore.
fn not_heard(cell: &CellId, error: &StepError) -> Status {
    match error {
        StepError::Refused { code, reason } if code == "STALE_TERM" => refusal(
            Code::FailedPrecondition,
            "LINEAGE_TOO_LOW",
            format!("cell {cell} follows a later control plane: {reason}"),
            "stop that one; then restore the backup again with `cellctl store restore --lineage` above that lineage",
        ),
        _ => {
            let unheard = Rejected::CellNotHeard { cell: cell.clone() };
            refusal(Code::FailedPrecondition, unheard.code(), format!("{unheard}: {error}"), &unheard.hint())
        }
    }
}

fn cells_of(ground: &Ground, wanted: &Wanted) -> Result<Vec<Asked>, Status> {
    ground.view(|fleet| {
        if let Some(unknown) = wanted.without.iter().find(|cell| fleet.cell(cell).is_none()) {
            return Err(rejected(&Rejected::CellUnknown { cell: unknown.clone() }));
        }
        let asked = |cell: &cell_model::CellRecord| Asked {
            cell: cell.id.clone(),
            agent: cell.agent.clone(),
            left_out: cell.state == CellState::Dead || wanted.without.contains(&cell.id),
        };
        Ok(fleet.cells().map(asked).collect())
    })
}

/// What each cell says. With a term, the cell refuses older leaders and lineages from then on.
async fn ask(ground: &Ground, cells: Vec<Asked>, announced: Option<Term>) -> Answers {
    let agents = AgentPool::new(AgentOptions { link: ground.link.clone(), ..AgentOptions::default() });
    let lineage = ground.view(FleetView::lineage);
    let ask = |asked: Asked| {
        let agents = agents.clone();
        async move {
            if asked.left_out {
                let reason = "it is left out".to_owned();
                let nothing = StepError::Unreachable { agent: asked.agent.clone(), reason };
                return (asked, Err(nothing));
            }
            if let Some(term) = announced
                && let Err(error) = announce(&agents, &asked, lineage, term).await
            {
                return (asked, Err(error));
            }
            let held = agents.held(&asked.agent).await;
            let held = held.and_then(|(cell, held)| own_word(&asked, &cell, held));
            (asked, held)
        }
    };
    let mut answers: Answers = stream::iter(cells.into_iter().map(ask)).buffer_unordered(AT_ONCE).collect().await;
    answers.sort_by(|(one, _), (other, _)| one.cell.cmp(&other.cell));
    answers
}

/// What was said, where the cell that was asked has said it: also one that holds nothing says its name.
fn own_word(asked: &Asked, cell: &CellId, held: Vec<(TenantId, Held)>) -> Result<Vec<(TenantId, Held)>, StepError> {
    if *cell == asked.cell {
        return Ok(held);
    }
    let reason = format!("the agent of cell {cell} answers there");
    Err(StepError::Unreachable { agent: asked.agent.clone(), reason })
}

/// A look at a tenant that nobody has: it changes nothing but the newest leader that the agent knows of.
async fn announce(
    agents: &AgentPool,
    asked: &Asked,
    lineage: cell_model::Lineage,
    term: Term,
) -> Result<(), StepError> {
    let Ok(tenant) = TenantId::new("reconcile") else { return Ok(()) };
    let context = StepContext {
        lineage,
        term,
        tenant,
        uid: Uid(0),
        move_id: None,
        attempt: Attempt(0),
        epoch: Epoch(0),
        leg: None,
    };
    match agents.preflight(&asked.agent, &context, false).await {
        Err(StepError::Refused { code, .. }) if code != "STALE_TERM" => Ok(()),
        other => other.map(drop),
    }
}

#[derive(Default)]
struct Judged {
    to_adopt: Vec<TenantId>,
    contradictory: Option<(TenantId, String)>,
}

/// Judges every tenant that the store or a cell knows, and counts.
async fn judge_all(
    ground: &Ground,
    holdings: &BTreeMap<TenantId, Vec<Held>>,
    silent: &BTreeSet<CellId>,
    answer: &mut v1::ReconcileResponse,
) -> Judged {
    let mut judged = Judged::default();
    let (mut worst, mut others) = (Vec::new(), Vec::new());
    let mut after: Option<TenantId> = None;
    loop {
        let page = ground.view(|fleet| {
            let page = next_tenants(fleet, holdings, after.as_ref());
            let stamp = Stamp { at: ground.now(), revision: fleet.head().revision.next() };
            let verdict = |tenant: TenantId| {
                let held = holdings.get(&tenant).map_or(&[][..], Vec::as_slice);
                let verdict = judge(fleet, &tenant, held, stamp);
                let record = fleet.tenant(&tenant);
                if let Some(reason) = record.and_then(|record| unheard(&verdict, record, silent)) {
                    return (tenant, None, reason);
                }
                let detail = detail_of(&verdict, record);
                (tenant, Some(verdict), detail)
            };
            page.into_iter().map(verdict).collect::<Vec<_>>()
        });
        let Some((last, ..)) = page.last() else { break };
        after = Some(last.clone());
        for (tenant, verdict, detail) in page {
            answer.tenants += 1;
            let (word, list) = match verdict {
                None => {
                    answer.unheard += 1;
                    ("unheard", &mut worst)
                }
                Some(Verdict::Confirmed) => {
                    answer.confirmed += 1;
                    continue;
                }
                Some(Verdict::Adopt { why, .. }) => {
                    answer.adopted += 1;
                    judged.to_adopt.push(tenant.clone());
                    (why.as_str(), &mut others)
                }
                Some(Verdict::Unheld { .. }) => {
                    answer.unheld += 1;
                    ("unheld", &mut worst)
                }
                Some(Verdict::Contradictory { reason }) => {
                    answer.contradictory += 1;
                    judged.contradictory.get_or_insert((tenant.clone(), reason));
                    ("contradictory", &mut worst)
                }
            };
            if list.len() < FINDINGS_MAX {
                list.push(v1::ReconcileTenant { tenant: tenant.to_string(), verdict: word.into(), detail });
            }
        }
        tokio::task::yield_now().await;
    }
    worst.sort_by(|one: &v1::ReconcileTenant, other| one.verdict.cmp(&other.verdict));
    worst.append(&mut others);
    worst.truncate(FINDINGS_MAX);
    answer.findings = worst;
    judged
}

/// Why nothing is known of a tenant whose record stands for want of anything else: its cell has not spoken.
fn unheard(verdict: &Verdict, record: &cell_model::TenantRecord, silent: &BTreeSet<CellId>) -> Option<String> {
    let stands = matches!(verdict, Verdict::Confirmed | Verdict::Unheld { .. });
    let of_silent = record.life != cell_model::Life::Deleted && silent.contains(&record.owner);
    (stands && of_silent).then(|| format!("the record has it on cell {}, which was not heard", record.owner))
}

/// The next tenants by name, of the store and of the cells.
fn next_tenants(
    fleet: &Fleet,
    holdings: &BTreeMap<TenantId, Vec<Held>>,
    after: Option<&TenantId>,
) -> BTreeSet<TenantId> {
    use std::ops::Bound::{Excluded, Unbounded};
    let from = after.map_or(Unbounded, Excluded);
    let held = holdings.range::<TenantId, _>((from, Unbounded)).map(|(tenant, _)| tenant);
    let known = fleet.tenants_after(after).map(|record| &record.id);
    let mut next: BTreeSet<TenantId> =
        held.take(JUDGED_AT_ONCE).chain(known.take(JUDGED_AT_ONCE)).cloned().collect();
    while next.len() > JUDGED_AT_ONCE {
        next.pop_last();
    }
    next
}

fn detail_of(verdict: &Verdict, before: Option<&cell_model::TenantRecord>) -> String {
    match verdict {
        Verdict::Confirmed => String::new(),
        Verdict::Unheld { reason } | Verdict::Contradictory { reason } => reason.clone(),
        Verdict::Adopt { record, .. } => {
            let at = |record: &cell_model::TenantRecord| {
                let phase = record.movement.as_ref().map(|movement| format!(", a move in {}", movement.phase));
                let copies = record.retained.len();
                let copies = if copies > 0 { format!(", copies left: {copies}") } else { String::new() };
                let gone = if record.life == cell_model::Life::Live { "" } else { ", not live" };
                format!(
                    "{} epoch {} uid {}{}{copies}{gone}",
                    record.owner,
                    record.epoch,
                    record.uid,
                    phase.unwrap_or_default()
                )
            };
            let before = before.map_or_else(|| "unknown".to_owned(), at);
            format!("{before} -> {}", at(record))
        }
    }
}

async fn adopt(
    ground: &Ground,
    tenants: Vec<TenantId>,
    holdings: &mut BTreeMap<TenantId, Vec<Held>>,
    by: &str,
) -> Result<(), Status> {
    let command = |tenant: TenantId| {
        let held = holdings.remove(&tenant).unwrap_or_default();
        let command = Command::Adopt { tenant, held };
        Envelope { actor: by.to_owned(), ..Envelope::new(ground.now(), command) }
    };
    let commands: Vec<Envelope> = tenants.into_iter().map(command).collect();
    let submit = |envelope: Envelope| async move { ground.submit(envelope).await.map(drop) };
    stream::iter(commands.into_iter().map(submit)).buffer_unordered(AT_ONCE).try_collect::<()>().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_heard_only_where_it_says_its_own_name_even_if_it_holds_nothing() {
        let [c1, c2] = ["c1", "c2"].map(|name| CellId::new(name).unwrap());
        let asked = Asked { cell: c1.clone(), agent: "h:1".into(), left_out: false };
        assert_eq!(own_word(&asked, &c1, Vec::new()), Ok(Vec::new()));
        let StepError::Unreachable { agent, reason } = own_word(&asked, &c2, Vec::new()).unwrap_err() else {
            panic!("it is not heard")
        };
        assert_eq!((agent.as_str(), reason.as_str()), ("h:1", "the agent of cell c2 answers there"));
    }

    #[test]
    fn a_record_on_a_cell_that_was_not_heard_is_not_confirmed() {
        let [c1, c2] = ["c1", "c2"].map(|name| CellId::new(name).unwrap());
        let record = |life| cell_model::TenantRecord {
            id: TenantId::new("acme").unwrap(),
            uid: Uid(1),
            lineage: cell_model::Lineage(2),
            epoch: Epoch(1),
            rev: cell_model::Rev(1),
            revision: cell_model::Revision(7),
            owner: c1.clone(),
            life,
            tier: cell_model::Tier::Bronze,
            residency: "".into(),
            movement: None,
            retained: Vec::new(),
            placed: "".into(),
        };
        let silent = [c1.clone()].into();
        // Before its cell has granted it, nobody has anything to say of it.
        let provisioning = record(cell_model::Life::Provisioning);
        let told = unheard(&Verdict::Confirmed, &provisioning, &silent).unwrap();
        assert!(told.contains("cell c1, which was not heard"), "{told}");
        let unheld = Verdict::Unheld { reason: "nobody holds it".into() };
        assert!(unheard(&unheld, &record(cell_model::Life::Live), &silent).is_some());
        assert_eq!(unheard(&Verdict::Confirmed, &provisioning, &[c2].into()), None);
        assert_eq!(unheard(&Verdict::Confirmed, &record(cell_model::Life::Deleted), &silent), None);
        let contradictory = Verdict::Contradictory { reason: "two own it".into() };
        assert_eq!(unheard(&contradictory, &provisioning, &silent), None);
    }
}
