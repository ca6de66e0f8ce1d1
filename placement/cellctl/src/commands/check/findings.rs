//! The judgement: from what was heard to findings. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cell_client::wire;
use cell_model::CellState;
use cell_trust::TrustedKeys;

mod view;

pub(super) use view::{FindingView, Mark};

use super::survey::{Cell, Node, Survey};
use crate::cli::Category;

const DAY_S: i64 = 24 * 3_600;
/// Entries of the log by which a node may be behind.
const APPLIED_LAG_MAX: u64 = 1_000;
/// Leases and staleness do not need equal clocks, but pauses and the audit trail's times do.
const CLOCK_WARN_MS: u64 = 1_000;
const CLOCK_FAIL_MS: u64 = 60_000;
const STALENESS_WARN_MS: u64 = 1_000;
/// A leader that was not confirmed for longer has lost its majority, and not only for a moment.
const UNCONFIRMED_MAX_MS: u64 = 2_000;
const DISK_WARN_PERCENT: u64 = 10;
const DISK_FAIL_BYTES: u64 = 512 * 1024 * 1024;
/// A phase that lasts longer is worth a look.
const PHASE_WARN_MS: u64 = 30 * 60 * 1_000;
const CERTIFICATE_WARN_S: i64 = 30 * DAY_S;
const CERTIFICATE_FAIL_S: i64 = 2 * DAY_S;
const ISSUE_ANEW: &str =
    "issue it anew before it runs out (`cellctl ca issue`) and start the process again, one after another";
/// In these phases the tenant waits.
const WAITING_FAIL_MS: u64 = 30 * 1_000;

pub(super) fn mark(fails: bool, warns: bool) -> Mark {
    match (fails, warns) {
        (true, _) => Mark::Fails,
        (false, true) => Mark::Warns,
        (false, false) => Mark::Holds,
    }
}

/// Some of them, and how many more there are.
pub(super) fn few(names: &[String]) -> String {
    let more = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
    format!("{}{more}", names[..names.len().min(5)].join(", "))
}

/// Every finding, by category.
pub(super) fn of(survey: &Survey) -> Vec<FindingView> {
    let mut found = quorum(&survey.nodes);
    found.push(super::members::of(&survey.nodes));
    found.extend(disk(&survey.nodes));
    found.push(clock(&survey.nodes));
    found.extend(lag(survey));
    found.extend(certificates(survey));
    found.extend(moves(survey));
    found.extend(orphans(survey));
    found.push(audit(&survey.nodes));
    found
}

fn answering(nodes: &[Node]) -> Vec<(&Node, &wire::StatusResponse)> {
    nodes.iter().filter_map(|node| Some((node, node.status.as_ref().ok()?))).collect()
}

fn quorum(nodes: &[Node]) -> Vec<FindingView> {
    let new = |check, mark, message, hint: &str| FindingView::new(Category::Quorum, check, mark, message, hint);
    let answering = answering(nodes);
    let silent: Vec<String> = nodes
        .iter()
        .filter_map(|node| {
            let why = node.status.as_ref().err()?;
            // Most reasons begin with who it is.
            let why = why.strip_prefix(&format!("node {} ", node.endpoint)).unwrap_or(why);
            Some(format!("{} ({why})", node.endpoint))
        })
        .collect();
    let majority = answering.len() * 2 > nodes.len();
    let message = if silent.is_empty() {
        format!("all {} control nodes answer", nodes.len())
    } else {
        format!("{} of {} control nodes answer; silent: {}", answering.len(), nodes.len(), silent.join(", "))
    };
    let reachable =
        new("nodes-answer", mark(!majority, !silent.is_empty()), message, "start the node, or look at its log");
    let leaders: Vec<&str> =
        answering.iter().filter(|(_, status)| status.is_leader).map(|(node, _)| node.endpoint.as_str()).collect();
    let leader = match leaders.as_slice() {
        [] => new(
            "one-leads",
            Mark::Fails,
            "no node leads".into(),
            "a majority of the nodes has to run and to reach each other",
        ),
        [one] => match unconfirmed(&answering) {
            None => new("one-leads", Mark::Holds, format!("{one} leads"), ""),
            Some(since) => new(
                "one-leads",
                Mark::Fails,
                format!("{one} says that it leads, and {since}: it takes no commands"),
                "a majority of the nodes has to run and to reach each other",
            ),
        },
        // For a moment after a partition, an old leader does not know yet.
        many => new(
            "one-leads",
            Mark::Warns,
            format!("{} say that they lead", many.join(" and ")),
            "look again in a few seconds",
        ),
    };
    if answering.is_empty() {
        let untold = ["one-cluster", "one-version", "reconciled"]
            .map(|check| unknown(Category::Quorum, check, "no node answers"));
        return [reachable, leader].into_iter().chain(untold).collect();
    }
    let clusters: BTreeSet<(u64, u64)> =
        answering.iter().map(|(_, status)| (status.cluster_id, status.lineage)).collect();
    let versions: BTreeSet<&str> = answering.iter().map(|(_, status)| status.version.as_str()).collect();
    let same = new(
        "one-cluster",
        mark(clusters.len() > 1, false),
        format!("the nodes are of {} cluster{}", clusters.len(), if clusters.len() == 1 { "" } else { "s" }),
        "the endpoints name nodes of different clusters: `cellctl cluster status` shows which",
    );
    let version = new(
        "one-version",
        mark(false, versions.len() > 1),
        format!("version {}", versions.into_iter().collect::<Vec<_>>().join(", ")),
        "finish the upgrade",
    );
    let restored = answering.iter().find(|(_, status)| status.unreconciled);
    let message = match restored {
        Some((_, status)) => {
            format!("restored from a backup (lineage {}), and what the cells hold is not adopted", status.lineage)
        }
        None => "the cells' grants are known to the store".into(),
    };
    let reconciled = new(
        "reconciled",
        mark(restored.is_some(), false),
        message,
        "`cellctl store reconcile` shows what the cells hold; with --yes it adopts it",
    );
    vec![reachable, leader, same, version, reconciled]
}

/// Since when no majority has confirmed the leader, where that is too long ago.
fn unconfirmed(answering: &[(&Node, &wire::StatusResponse)]) -> Option<String> {
    let (_, leader) = answering.iter().find(|(_, status)| status.is_leader)?;
    match leader.quorum_ack_ms {
        Some(ago) if ago <= UNCONFIRMED_MAX_MS => None,
        Some(ago) => Some(format!("no majority has confirmed it for {ago} ms")),
        // A program of before does not say.
        None => (leader.version == env!("CARGO_PKG_VERSION")).then(|| "no majority has confirmed it yet".into()),
    }
}

fn disk(nodes: &[Node]) -> Vec<FindingView> {
    let mut found = room(nodes);
    let new = |mark, message| {
        let hint = "mount with barriers and without a library that swallows syncs; give --data-dir on a disk";
        FindingView::new(Category::Disk, "syncs-last", mark, message, hint)
    };
    for node in nodes {
        let Ok(disk) = &node.disk else { continue };
        let endpoint = &node.endpoint;
        found.push(match disk.honesty() {
            wire::SyncHonesty::Lying => {
                new(Mark::Fails, format!("{endpoint}: syncs return before the device has written"))
            }
            wire::SyncHonesty::Volatile => new(Mark::Warns, format!("{endpoint} keeps its data in memory")),
            wire::SyncHonesty::Durable => new(Mark::Holds, format!("{endpoint}: syncs reach the device")),
            wire::SyncHonesty::Unspecified => {
                new(Mark::Holds, format!("{endpoint}: the system does not say whether syncs reach the device"))
            }
        });
    }
    found
}

fn room(nodes: &[Node]) -> Vec<FindingView> {
    let new = |mark, message| {
        let hint = "make room where the node keeps its data: below its reserve it takes no commands";
        FindingView::new(Category::Disk, "room", mark, message, hint)
    };
    let finding = |(node, status): (&Node, &wire::StatusResponse)| {
        let (free, total) = (status.disk_free_bytes, status.disk_total_bytes);
        if node.disk.as_ref().is_ok_and(|disk| disk.full) {
            let text =
                format!("{} accepts nothing: {} MiB are free, less than its reserve", node.endpoint, free >> 20);
            return new(Mark::Fails, text);
        }
        if total == 0 {
            return new(Mark::Warns, format!("{} does not say how much room it has", node.endpoint));
        }
        let percent = free.saturating_mul(100) / total;
        let text = format!("{} has {} MiB ({percent} %) free", node.endpoint, free >> 20);
        new(mark(free < DISK_FAIL_BYTES, percent < DISK_WARN_PERCENT), text)
    };
    answering(nodes).into_iter().map(finding).collect()
}

fn clock(nodes: &[Node]) -> FindingView {
    let off = nodes.iter().filter_map(|node| {
        let (difference, uncertain) = node.clock_ms?;
        Some((difference.unsigned_abs().saturating_sub(uncertain), node))
    });
    let new = |mark, message| {
        let hint = "let chrony or another NTP client run on every machine";
        FindingView::new(Category::Clock, "clocks-agree", mark, message, hint)
    };
    match off.max_by_key(|(off, _)| *off) {
        Some((off, node)) => new(
            mark(off > CLOCK_FAIL_MS, off > CLOCK_WARN_MS),
            format!("clocks differ from this one by at most {off} ms ({})", node.endpoint),
        ),
        None => new(Mark::Warns, "no node has told its time".into()),
    }
}

fn unknown(category: Category, check: &'static str, reason: &str) -> FindingView {
    let hint = "mend what is above first";
    FindingView::new(category, check, Mark::Fails, format!("cannot be told: {reason}"), hint)
}

fn lag(survey: &Survey) -> Vec<FindingView> {
    let new = |check, mark, message, hint: &str| FindingView::new(Category::Lag, check, mark, message, hint);
    let answering = answering(&survey.nodes);
    let newest = answering.iter().map(|(_, status)| status.applied_index).max().unwrap_or_default();
    let behind: Vec<String> = answering
        .iter()
        .filter(|(_, status)| newest - status.applied_index > APPLIED_LAG_MAX)
        .map(|(node, status)| format!("{} by {} entries", node.endpoint, newest - status.applied_index))
        .collect();
    let message = if behind.is_empty() { "no node lags".into() } else { format!("behind: {}", behind.join(", ")) };
    let nodes = if answering.is_empty() {
        unknown(Category::Lag, "nodes-follow", "no node answers")
    } else {
        new("nodes-follow", mark(false, !behind.is_empty()), message, "is its disk or its network slow?")
    };
    let routers = match &survey.routers {
        Err(reason) => unknown(Category::Lag, "routers-fresh", reason),
        Ok(known) => {
            let is_stale = |router: &&wire::Router| {
                router.lease_ms == 0 || router.staleness_ms.is_none_or(|stale| stale > STALENESS_WARN_MS)
            };
            let stale: Vec<&str> =
                known.routers.iter().filter(is_stale).map(|router| router.name.as_str()).collect();
            let message = if stale.is_empty() {
                format!("{} routers, each with a fresh table", known.routers.len())
            } else {
                format!("stale, or not heard of any more: {}", stale.join(", "))
            };
            let hint =
                "`cellctl get routers` shows how far; a router that is gone for good is forgotten in ten minutes";
            new("routers-fresh", mark(false, !stale.is_empty()), message, hint)
        }
    };
    let cells = match &survey.cells {
        Err(reason) => unknown(Category::Lag, "agents-answer", reason),
        Ok(cells) => {
            let living = cells.iter().filter(|cell| cell.record.state != CellState::Dead);
            let (heard, silent): (Vec<&Cell>, Vec<&Cell>) = living.partition(|cell| cell.agent.is_ok());
            let names: Vec<String> = silent.iter().map(|cell| cell.record.id.to_string()).collect();
            let message = if silent.is_empty() {
                format!("{} agents answer", heard.len())
            } else {
                format!("silent agents of {}", names.join(", "))
            };
            let hint = "start the cell; `cellctl describe cell CELL` shows where it is looked for";
            new("agents-answer", mark(!silent.is_empty(), false), message, hint)
        }
    };
    vec![nodes, routers, cells]
}

fn certificates(survey: &Survey) -> Vec<FindingView> {
    let new = |who: &str, left_s: i64| {
        let message = if left_s <= 0 {
            format!("the certificate of {who} has run out")
        } else {
            format!("the certificate of {who} is valid for {} days", left_s / DAY_S)
        };
        let mark = mark(left_s < CERTIFICATE_FAIL_S, left_s < CERTIFICATE_WARN_S);
        FindingView::new(Category::Certificates, "valid", mark, message, ISSUE_ANEW)
    };
    let now_s = i64::try_from(survey.now_ms / 1_000).unwrap_or(i64::MAX);
    let of_nodes =
        answering(&survey.nodes).into_iter().map(|(node, status)| match status.certificate_not_after_unix_s {
            0 => {
                let message = format!("{} speaks in plaintext", node.endpoint);
                FindingView::new(
                    Category::Certificates,
                    "encrypted",
                    Mark::Warns,
                    message,
                    "give it an identity: docs/security.md",
                )
            }
            until => new(&node.endpoint, i64::try_from(until).unwrap_or(i64::MAX) - now_s),
        });
    let own = survey.own_certificate_s.map(|left| new("this command", left));
    of_nodes.chain(own).chain(of_many(survey, now_s)).collect()
}

/// Of routers and agents there may be hundreds: those that run out are named, the others counted. Whoever shows none says
/// that by 0, and programs of before as well.
fn of_many(survey: &Survey, now_s: i64) -> Option<FindingView> {
    let left = |until: u64| i64::try_from(until).unwrap_or(i64::MAX) - now_s;
    let routers = survey.routers.iter().flat_map(|known| &known.routers);
    let routers = routers.map(|router| (format!("router {}", router.name), router.certificate_not_after_unix_s));
    let cells = survey.cells.iter().flatten().filter_map(|cell| Some((cell, cell.agent.as_ref().ok()?)));
    let agents =
        cells.map(|(cell, agent)| (format!("the agent of {}", cell.record.id), agent.certificate_not_after_unix_s));
    let mut all: Vec<(i64, String)> =
        routers.chain(agents).filter(|(_, until)| *until > 0).map(|(who, until)| (left(until), who)).collect();
    all.sort();
    let (soonest, _) = all.first()?;
    let ending: Vec<String> = all
        .iter()
        .filter(|(left, _)| *left < CERTIFICATE_WARN_S)
        .map(
            |(left, who)| {
                if *left <= 0 { format!("{who} (has run out)") } else { format!("{who} ({} days)", left / DAY_S) }
            },
        )
        .collect();
    let message = if ending.is_empty() {
        format!("{} certificates of routers and agents are valid for at least {} days", all.len(), soonest / DAY_S)
    } else {
        format!("certificates run out of {}", few(&ending))
    };
    let mark = mark(*soonest < CERTIFICATE_FAIL_S, *soonest < CERTIFICATE_WARN_S);
    Some(FindingView::new(Category::Certificates, "valid", mark, message, ISSUE_ANEW))
}

fn moves(survey: &Survey) -> Vec<FindingView> {
    let new = |mark, message| {
        let hint = "`cellctl describe move MOVE` shows what it waits for; `cellctl move cancel MOVE` ends it before the cutover";
        FindingView::new(Category::Moves, "moves-go-on", mark, message, hint)
    };
    let moves = match &survey.moves {
        Ok(moves) => moves,
        Err(reason) => return vec![unknown(Category::Moves, "moves-go-on", reason)],
    };
    let stuck: Vec<FindingView> = moves
        .iter()
        .filter(|movement| movement.admitted && movement.intent() != wire::Intent::Pause)
        .filter_map(|movement| {
            let since = movement.history.last()?.at_unix_ms;
            let lasts = survey.now_ms.saturating_sub(since);
            let waits = matches!(
                movement.phase(),
                wire::Phase::Fenced | wire::Phase::Activate | wire::Phase::Unfence | wire::Phase::Hold
            );
            let soaks = movement.phase() == wire::Phase::Soak;
            let allowed = PHASE_WARN_MS + if soaks { u64::from(movement.soak_ms) } else { 0 };
            let (fails, warns) = (waits && lasts > WAITING_FAIL_MS, lasts > allowed);
            let phase = movement.phase().as_str_name().trim_start_matches("PHASE_").to_lowercase();
            (fails || warns).then(|| {
                let (id, tenant) = (&movement.id, &movement.tenant);
                new(mark(fails, warns), format!("{id} of {tenant} has been in {phase} for {} s", lasts / 1_000))
            })
        })
        .collect();
    if stuck.is_empty() {
        vec![new(Mark::Holds, format!("{} moves under way, none is stuck", moves.len()))]
    } else {
        stuck
    }
}

fn orphans(survey: &Survey) -> Vec<FindingView> {
    let (tenants, cells) = match (&survey.tenants, &survey.cells) {
        (Ok(tenants), Ok(cells)) => (tenants, cells),
        (Err(reason), _) | (_, Err(reason)) => return vec![unknown(Category::Orphans, "owned-once", reason)],
    };
    let new = |check, mark, message, hint: &str| FindingView::new(Category::Orphans, check, mark, message, hint);
    let dead: BTreeSet<&str> = cells
        .iter()
        .filter(|cell| cell.record.state == CellState::Dead)
        .map(|cell| cell.record.id.as_str())
        .collect();
    let mapping = |tenant: &wire::Tenant| tenant.mapping.clone().unwrap_or_default();
    let on_dead: Vec<String> = tenants
        .iter()
        .map(mapping)
        .filter(|mapping| dead.contains(mapping.owner.as_str()))
        .map(|mapping| mapping.tenant)
        .collect();
    let message = if on_dead.is_empty() {
        "no tenant is on a dead cell".into()
    } else {
        format!("on dead cells: {}", few(&on_dead))
    };
    let homeless =
        new("cell-alive", mark(!on_dead.is_empty(), false), message, "docs/migration.md, \"A cell is lost\"");
    // A tenant that moves is owned by one and held by another: only tenants at rest are compared.
    let at_rest = tenants.iter().filter(|tenant| tenant.r#move.is_none() && tenant.life == "live").map(mapping);
    let heard: BTreeMap<&str, &wire::DescribeResponse> =
        cells.iter().filter_map(|cell| Some((cell.record.id.as_str(), cell.agent.as_ref().ok()?))).collect();
    let owners = owners(&heard);
    let mut wrong = Vec::new();
    for mapping in at_rest {
        let owners = owners.get(mapping.tenant.as_str()).map_or(&[][..], Vec::as_slice);
        let is_heard = heard.contains_key(mapping.owner.as_str());
        if owners.iter().any(|owner| *owner != mapping.owner) || (is_heard && owners.is_empty()) {
            wrong.push(format!("{} (store: {}, cells: {})", mapping.tenant, mapping.owner, owners.join(" ")));
        }
    }
    let message = if wrong.is_empty() {
        format!("{} tenants, each owned by the cell that the store names", tenants.len())
    } else {
        format!("owned by another cell than the store says: {}", few(&wrong))
    };
    let owned = new(
        "owned-once",
        mark(!wrong.is_empty(), false),
        message,
        "look at the cells' logs; do not move these tenants",
    );
    let overdue: Vec<String> = tenants
        .iter()
        .filter(|tenant| {
            let is_old = |copy: &wire::Retained| copy.until_unix_ms + PHASE_WARN_MS < survey.now_ms;
            tenant.retained.iter().any(is_old)
        })
        .map(|tenant| mapping(tenant).tenant)
        .collect();
    let message = if overdue.is_empty() {
        "no old copy is overdue".into()
    } else {
        format!("old copies are overdue of {}", few(&overdue))
    };
    let copies =
        new("copies-reclaimed", mark(false, !overdue.is_empty()), message, "start the cell that has the copy");
    vec![homeless, owned, copies, super::kept::of(cells)]
}

/// Which cells say of a tenant that they own it.
fn owners<'a>(heard: &BTreeMap<&'a str, &'a wire::DescribeResponse>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (cell, agent) in heard {
        for grant in agent.grants.iter().filter(|grant| grant.role() == wire::Role::Owner) {
            owners.entry(&grant.tenant).or_default().push(*cell);
        }
    }
    owners
}

fn audit(nodes: &[Node]) -> FindingView {
    let new = |mark, message, hint: &str| FindingView::new(Category::Audit, "one-chain", mark, message, hint);
    let mut newest: Option<&Node> = None;
    for node in nodes {
        let Ok(trail) = &node.trail else { continue };
        let other = newest.and_then(|node| node.trail.as_ref().ok());
        let doubt = trail.verify(&TrustedKeys::default()).err().or_else(|| other?.agrees_with(trail).err());
        if let Some(doubt) = doubt {
            let hint = "somebody may have rewritten it: docs/audit.md, and `cellctl audit verify`";
            return new(Mark::Fails, format!("{}: {doubt}", node.endpoint), hint);
        }
        if other.is_none_or(|other| other.end.number < trail.end.number) {
            newest = Some(node);
        }
    }
    match newest.and_then(|node| node.trail.as_ref().ok()) {
        Some(trail) => {
            new(Mark::Holds, format!("{} entries, one chain on every node that answers", trail.end.number), "")
        }
        None => new(Mark::Fails, "no node shows its trail".into(), "mend what is above first"),
    }
}

#[cfg(test)]
mod tests;
