//! A counter that is only ever incremented by one: the sum shows what was lost or done twice, the answers show
//! whether increments happened one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{FaultKind, Findings};
use crate::clock::Micros;
use crate::history::{Nonce, Op, Outcome};

#[derive(Debug, Clone, Copy)]
struct Increment {
    invoked: Micros,
    returned: Micros,
    value: Option<u64>,
    second_value: Option<u64>,
    unknown: bool,
}

/// Everything that was done to one counter.
#[derive(Debug, Default)]
pub(super) struct Counter {
    increments: BTreeMap<Nonce, Increment>,
}

impl Counter {
    pub(super) fn tried(&mut self, op: &Op, nonce: Nonce) {
        let increment = self.increments.entry(nonce).or_insert(Increment {
            invoked: op.invoked,
            returned: Micros::MAX,
            value: None,
            second_value: None,
            unknown: false,
        });
        increment.invoked = increment.invoked.min(op.invoked);
        match op.outcome {
            Outcome::Counted { value } => {
                increment.returned = increment.returned.min(op.returned);
                match increment.value {
                    None => increment.value = Some(value),
                    Some(first) if first != value => increment.second_value = Some(value),
                    Some(_) => {}
                }
            }
            Outcome::Unknown { .. } => increment.unknown = true,
            Outcome::Refused { .. } | Outcome::Written | Outcome::Read(_) | Outcome::Created { .. } => {}
        }
    }

    pub(super) fn check(&self, tenant: &Arc<str>, name: &str, end: u64, findings: &mut Findings) {
        let mut acked: Vec<(&Nonce, &Increment, u64)> =
            self.increments.iter().filter_map(|(nonce, one)| one.value.map(|value| (nonce, one, value))).collect();
        let unknown = self.increments.values().filter(|one| one.value.is_none() && one.unknown).count() as u64;
        let count = acked.len() as u64;
        findings.acked_writes += count;
        findings.unknown_writes += unknown;
        if end < count {
            let detail = format!("{count} increments were acknowledged, and it is {end}");
            findings.add(FaultKind::Lost, tenant, name, count - end, detail);
        }
        if end > count + unknown {
            let detail = format!("{count} increments were acknowledged, {unknown} unknown, and it is {end}");
            findings.add(FaultKind::Duplicated, tenant, name, end - count - unknown, detail);
        }
        for (nonce, one, value) in &acked {
            if let Some(second) = one.second_value {
                let detail = format!("request {nonce} under one idempotency key was answered {value} and {second}");
                findings.add(FaultKind::Duplicated, tenant, name, 1, detail);
            }
        }
        acked.sort_by_key(|(_, _, value)| *value);
        for pair in acked.windows(2) {
            if pair[0].2 == pair[1].2 {
                let detail = format!("requests {} and {} were both answered {}", pair[0].0, pair[1].0, pair[0].2);
                findings.add(FaultKind::Reordered, tenant, name, 1, detail);
            }
        }
        check_order(tenant, name, &acked, findings);
    }
}

/// What returned before another was sent must have got the lower value.
fn check_order(tenant: &Arc<str>, name: &str, acked: &[(&Nonce, &Increment, u64)], findings: &mut Findings) {
    let mut by_return: Vec<(Micros, u64)> = acked.iter().map(|(_, one, value)| (one.returned, *value)).collect();
    by_return.sort_unstable();
    let mut by_invoke: Vec<(Micros, u64)> = acked.iter().map(|(_, one, value)| (one.invoked, *value)).collect();
    by_invoke.sort_unstable();
    let mut returned = by_return.iter().peekable();
    let mut highest = 0;
    for (invoked, value) in by_invoke {
        while let Some((_, earlier)) = returned.next_if(|(at, _)| *at < invoked) {
            highest = highest.max(*earlier);
        }
        if value < highest {
            let detail = format!("an increment was answered {value} after another had been answered {highest}");
            findings.add(FaultKind::Reordered, tenant, name, 1, detail);
        }
    }
}
