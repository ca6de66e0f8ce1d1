//! The oracle: what clients were told, against what is there at the end.
//!
//! It knows nothing of cells, moves or epochs, so it cannot share their mistakes. Each tenant's objects are of three
//! kinds, each with a law that can be checked in O(n log n):
//!
//! * **registers** ([`register`]): one writer each, versions rising by one; reads and the end must not fall behind what
//!   was acknowledged before, nor behind what the same session has read before, and there must be one order of all writes,
//!   deletes and reads that explains what everybody was told (linearizability): of what was found, [`zones`], and of what
//!   was not, [`gaps`];
//! * **posted documents** ([`post`]): each request once, under the name that the client was told;
//! * **counters** ([`counter`]): the end equals the number of increments, each answer is handed out once, in order.
//!
//! An unknown outcome may have happened, at any time after it was sent, or not at all: it excuses what it explains
//! and nothing else. Every value carries its tenant, so that a leak shows wherever it surfaces.

mod counter;
mod gaps;
mod post;
mod register;
#[cfg(test)]
mod tests;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::history::{Action, Op, Outcome, Seen};

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Acknowledged, and not there.
    Lost,
    /// Done more than once.
    Duplicated,
    /// An older value in place of a newer one, or a read that went back.
    Reordered,
    /// Deleted for good, and there again.
    Resurrected,
    /// One tenant's value with another tenant.
    Leaked,
    /// Never written, or surely refused, and there.
    Phantom,
    /// A part of a transaction is there, and another part is not.
    Torn,
}

impl FaultKind {
    /// All.
    pub const ALL: [Self; 7] =
        [Self::Lost, Self::Duplicated, Self::Reordered, Self::Resurrected, Self::Leaked, Self::Phantom, Self::Torn];

    /// Which promises of `docs/invariants.md` it breaks.
    #[must_use]
    pub const fn promises(self) -> &'static [&'static str] {
        match self {
            Self::Lost => &["I3"],
            Self::Duplicated => &["I7", "I13"],
            Self::Reordered => &["I14"],
            Self::Resurrected => &["I8"],
            Self::Leaked => &["I16"],
            Self::Phantom | Self::Torn => &["I7"],
        }
    }

    /// As reports print it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::Resurrected => "resurrected",
            Self::Leaked => "leaked",
            Self::Phantom => "phantom",
            Self::Torn => "torn",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// With which tenant.
    pub tenant: String,
    /// With which document or counter.
    pub object: String,
    /// What was expected and what was found.
    pub detail: String,
    /// How many writes it stands for.
    pub writes: u64,
}

/// A document as it is at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinalDoc {
    /// Written by PUT.
    Register(Seen),
    /// Made by POST.
    Posted {
        /// The tenant that the document says it belongs to.
        tenant: Arc<str>,
        /// Of the request that made it.
        nonce: u64,
    },
    /// Not one of the load's documents.
    Foreign {
        /// Its beginning.
        text: String,
    },
}

/// One tenant at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FinalTenant {
    /// Documents by name.
    pub docs: BTreeMap<String, FinalDoc>,
    /// Counters by name; one that nobody incremented may be missing.
    pub counters: BTreeMap<String, u64>,
}

/// Everything that is wrong, and how much was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Writes that clients were told are done, each request once.
    pub acked_writes: u64,
    /// Writes whose outcome nobody knows.
    pub unknown_writes: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// What is wrong, in the order of tenants; at most [`Findings::FAULTS_MAX`] are kept.
    pub faults: Vec<Fault>,
    counts: BTreeMap<FaultKind, u64>,
}

impl Findings {
    /// How many faults are kept with their details.
    pub const FAULTS_MAX: usize = 200;

    /// How many writes, or reads, are concerned by faults of this kind.
    #[must_use]
    pub fn count(&self, kind: FaultKind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    fn faulty(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(crate) fn add(&mut self, kind: FaultKind, tenant: &Arc<str>, object: &str, writes: u64, detail: String) {
        *self.counts.entry(kind).or_default() += writes;
        if self.faults.len() < Self::FAULTS_MAX {
            self.faults.push(Fault { kind, tenant: tenant.to_string(), object: object.to_owned(), detail, writes });
        }
    }
}

#[derive(Debug, Default)]
struct TenantOps<'a> {
    registers: BTreeMap<&'a str, register::Register>,
    posts: BTreeMap<u64, post::Post>,
    counters: BTreeMap<&'a str, counter::Counter>,
}

/// Compares a history with what is there at the end. A tenant without a final state is taken to be empty.
#[must_use]
pub fn check(ops: &[Op], finals: &BTreeMap<Arc<str>, FinalTenant>) -> Findings {
    let mut findings = Findings::default();
    let mut tenants: BTreeMap<Arc<str>, TenantOps<'_>> = BTreeMap::new();
    for tenant in finals.keys() {
        tenants.entry(tenant.clone()).or_default();
    }
    for op in ops {
        sort_in(tenants.entry(op.tenant.clone()).or_default(), op);
        findings.reads += u64::from(matches!(op.outcome, Outcome::Read(_)));
    }
    let nothing = FinalTenant::default();
    for (tenant, tenant_ops) in &tenants {
        check_tenant(tenant, tenant_ops, finals.get(tenant).unwrap_or(&nothing), &mut findings);
    }
    findings
}

fn sort_in<'a>(tenant: &mut TenantOps<'a>, op: &'a Op) {
    match &op.action {
        Action::Put { key, version } => tenant.registers.entry(key).or_default().wrote(op, *version, false),
        Action::Delete { key, version } => tenant.registers.entry(key).or_default().wrote(op, *version, true),
        Action::Get { key } => tenant.registers.entry(key).or_default().was_read(op),
        Action::Post { nonce } => tenant.posts.entry(*nonce).or_default().tried(op),
        Action::Increment { counter, nonce } => tenant.counters.entry(counter).or_default().tried(op, *nonce),
    }
}

fn check_tenant(tenant: &Arc<str>, ops: &TenantOps<'_>, end: &FinalTenant, findings: &mut Findings) {
    for (key, register) in &ops.registers {
        register.check(tenant, key, end.docs.get(*key), findings);
    }
    post::check_all(tenant, &ops.posts, &end.docs, findings);
    for (name, counter) in &ops.counters {
        counter.check(tenant, name, end.counters.get(*name).copied().unwrap_or(0), findings);
    }
    for (name, value) in &end.counters {
        if *value != 0 && !ops.counters.contains_key(name.as_str()) {
            findings.add(FaultKind::Phantom, tenant, name, 1, format!("nobody incremented it, and it is {value}"));
        }
    }
    for (name, doc) in &end.docs {
        let detail = match doc {
            FinalDoc::Register(seen) if seen.tenant != *tenant => {
                findings.add(FaultKind::Leaked, tenant, name, 1, format!("it belongs to tenant {}", seen.tenant));
                continue;
            }
            FinalDoc::Register(_) if ops.registers.contains_key(name.as_str()) => continue,
            FinalDoc::Register(seen) => {
                format!("nobody wrote this key, and it is there at version {}", seen.version)
            }
            FinalDoc::Posted { .. } => continue,
            FinalDoc::Foreign { text } => format!("no document of this load: {text}"),
        };
        findings.add(FaultKind::Phantom, tenant, name, 1, detail);
    }
}
