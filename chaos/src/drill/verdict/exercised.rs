//! Whether the experiment took place: what has to be seen of the fault, and of the load that met it.

use std::collections::BTreeSet;

use super::{during, shown, whom};
use crate::clock::Micros;
use crate::drill::evidence::{Evidence, Home};
use crate::drill::{Expect, Group, Span};

/// Whether the experiment took place.
pub(super) fn exercise(expect: &Expect, evidence: &Evidence) -> (String, bool, String) {
    match expect {
        Expect::Swallowed => {
            let count = evidence.swallowed;
            ("the cut has swallowed something".into(), count > 0, format!("{count} frames, pieces or connections"))
        }
        Expect::Slowed => {
            let bytes = evidence.slowed_bytes;
            ("something passed the slow lanes".into(), bytes > 0, format!("{bytes} bytes"))
        }
        Expect::Lost => {
            let (lost, overtaken) = (evidence.lost_pieces, evidence.overtaken);
            let told =
                format!("{lost} pieces were lost and sent again; {overtaken} overtook one of another connection");
            ("the network has lost something".into(), lost > 0, told)
        }
        Expect::Hurt(group) => {
            const LONG: Micros = 500_000;
            let hurt = during(evidence, *group, Span::Fault).filter(|op| op.failed || op.latency() > LONG).count();
            let told = format!("{hurt} requests failed or waited for half a second");
            (format!("{} felt the fault", whom(*group)), hurt > 0, told)
        }
        Expect::Elected => {
            let told = evidence.elections.join(", ");
            ("another node came to lead".into(), !evidence.elections.is_empty(), shown(&told).to_owned())
        }
        Expect::Redirected(least) => {
            let count = evidence.redirects;
            (format!("cells sent routers on at least {least} times"), count >= *least, format!("{count} times"))
        }
        Expect::FaultIn(phases) => fault_in(evidence, phases, false),
        Expect::FaultOnTheWayBack(phase) => fault_in(evidence, &[*phase], true),
        Expect::Flooded(group, times) => flooded(evidence, *group, *times),
        Expect::DiskFull => {
            let told = evidence.disk_full.first().map_or("nothing", String::as_str);
            ("the node without room said so".into(), !evidence.disk_full.is_empty(), told.to_owned())
        }
        Expect::Injected(least) => {
            let count = evidence.injected;
            (format!("at least {least} syncs have met the fault"), count >= *least, format!("{count} have"))
        }
        Expect::PowerCuts(least) => {
            let told = evidence.power_cuts.join(", ");
            let held = evidence.power_cuts.len() >= *least;
            (format!("the power went at least {least} times"), held, shown(&told).to_owned())
        }
        Expect::Clocked(least) => {
            let told = evidence.clocks.join(", ");
            let whose: BTreeSet<&str> = evidence.clocks.iter().filter_map(|told| told.split(' ').next()).collect();
            (
                format!("clocks of at least {least} processes were wrong"),
                whose.len() >= *least,
                shown(&told).to_owned(),
            )
        }
        Expect::Overloaded(least) => {
            let (waited, full) = (evidence.locked_out, evidence.sessions_taken.join(", "));
            let held = waited >= *least && !full.is_empty();
            let told = format!("{waited} waited for a lock at once; sessions that were taken: {}", shown(&full));
            (format!("at least {least} statements waited at once, and a database had no session left"), held, told)
        }
        Expect::Busy(group) => {
            let busy = |home: &&Home| {
                during(evidence, *group, Span::Fault).any(|op| op.tenant == home.name && op.is_acked_write())
            };
            let members = evidence.members(*group);
            let count = members.iter().filter(|home| busy(home)).count();
            let held = !members.is_empty() && count == members.len();
            let told = format!("{count} of {} did", members.len());
            (format!("{} wrote during the fault", whom(*group)), held, told)
        }
        other => (format!("{other:?} is judged"), false, "this judge does not know it".into()),
    }
}

fn fault_in(evidence: &Evidence, phases: &[cell_model::Phase], back: bool) -> (String, bool, String) {
    let wanted: Vec<&str> = phases.iter().map(|phase| phase.as_str()).collect();
    let faults = evidence.faults.iter().map(|fault| fault.from);
    let met: Vec<(&str, bool)> =
        faults.flat_map(|at| evidence.moves.iter().filter_map(move |one| one.met_at(at))).collect();
    let hits = met.iter().filter(|(phase, was_back)| *was_back == back && wanted.contains(phase)).count();
    let others: BTreeSet<&str> = met.iter().map(|(phase, _)| *phase).collect();
    let told = match (hits, others.is_empty()) {
        (0, true) => "no move ran".to_owned(),
        (0, false) => format!("none; in {}", others.into_iter().collect::<Vec<_>>().join(", ")),
        _ => format!("{hits} did"),
    };
    let way = if back { " on the way back" } else { "" };
    (format!("a fault began during {}{way}", wanted.join(" or ")), hits > 0, told)
}

fn flooded(evidence: &Evidence, group: Group, times: u32) -> (String, bool, String) {
    let rate = |span, (from, to): (Micros, Micros)| {
        let sent = during(evidence, group, span).count();
        sent as f64 * 1e6 / to.saturating_sub(from).max(1) as f64
    };
    let (before, during) = (rate(Span::Steady, evidence.steady), rate(Span::Fault, evidence.fault));
    let statement = format!("{} asked at least {times} times as much as before", whom(group));
    (
        statement,
        during >= before * f64::from(times) && before > 0.0,
        format!("{before:.0}/s before, {during:.0}/s then"),
    )
}
