//! Documents whose names the server makes: each request once, under the name that the client was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{FaultKind, FinalDoc, Findings};
use crate::history::{Op, Outcome};

/// One request, with every time that it was sent.
#[derive(Debug, Default)]
pub(super) struct Post {
    told: Vec<Arc<str>>,
    unknown: bool,
}

impl Post {
    pub(super) fn tried(&mut self, op: &Op) {
        match &op.outcome {
            Outcome::Created { id } => self.told.push(id.clone()),
            Outcome::Unknown { .. } => self.unknown = true,
            Outcome::Refused { .. } | Outcome::Written | Outcome::Read(_) | Outcome::Counted { .. } => {}
        }
    }
}

pub(super) fn check_all(
    tenant: &Arc<str>,
    posts: &BTreeMap<u64, Post>,
    docs: &BTreeMap<String, FinalDoc>,
    findings: &mut Findings,
) {
    let mut found: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (name, doc) in docs {
        match doc {
            FinalDoc::Posted { tenant: of, nonce } if of == tenant => found.entry(*nonce).or_default().push(name),
            FinalDoc::Posted { tenant: of, .. } => {
                findings.add(FaultKind::Leaked, tenant, name, 1, format!("it belongs to tenant {of}"));
            }
            FinalDoc::Register(_) | FinalDoc::Foreign { .. } => {}
        }
    }
    for (nonce, post) in posts {
        let names = found.remove(nonce).unwrap_or_default();
        check_one(tenant, *nonce, post, &names, findings);
    }
    for (nonce, names) in found {
        let detail = format!("nobody sent request {nonce}, and its document is there");
        findings.add(FaultKind::Phantom, tenant, names[0], 1, detail);
    }
}

fn check_one(tenant: &Arc<str>, nonce: u64, post: &Post, names: &[&str], findings: &mut Findings) {
    let object = post.told.first().map_or_else(|| format!("request {nonce}"), |id| (**id).to_owned());
    findings.acked_writes += u64::from(!post.told.is_empty());
    findings.unknown_writes += u64::from(post.told.is_empty() && post.unknown);
    if post.told.iter().any(|id| *id != post.told[0]) {
        let detail = format!("request {nonce} under one idempotency key made {}", post.told.join(" and "));
        findings.add(FaultKind::Duplicated, tenant, &object, 1, detail);
        return;
    }
    if names.len() > 1 {
        let detail = format!("request {nonce} is there {} times: {}", names.len(), names.join(", "));
        findings.add(FaultKind::Duplicated, tenant, &object, names.len() as u64 - 1, detail);
    }
    match (post.told.first(), names) {
        (Some(id), names) if !names.contains(&&**id) => {
            let detail = format!("request {nonce} was acknowledged as {id}, and it is not there");
            findings.add(FaultKind::Lost, tenant, &object, 1, detail);
        }
        (None, [name, ..]) if !post.unknown => {
            let detail = format!("request {nonce} was refused, and its document {name} is there");
            findings.add(FaultKind::Phantom, tenant, &object, 1, detail);
        }
        _ => {}
    }
}
