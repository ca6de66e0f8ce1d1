//! A plan as a file: what `plan … -o json` writes and `apply` reads.

use std::collections::BTreeSet;

use cell_planner::{Plan, PlannedMove};
use serde::{Deserialize, Serialize};

use super::Loaded;
use crate::failure::Failure;
use crate::view::API_VERSION;

const KIND: &str = "Plan";

/// A plan, with what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PlanDocument {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    /// The file, or the control plane.
    pub(super) origin: String,
    #[serde(flatten)]
    pub(super) plan: Plan,
}

/// What says what a document is.
#[derive(Default, Deserialize)]
struct Head {
    #[serde(default)]
    kind: String,
}

/// The kind of document that a text says it is; nothing where it says none, or is no document at all.
pub(super) fn kind_of(text: &str) -> String {
    serde_json::from_str::<Head>(text).unwrap_or_default().kind
}

impl PlanDocument {
    pub(super) fn new(plan: Plan, loaded: &Loaded) -> Self {
        Self::of(plan, loaded.origin.clone())
    }

    pub(super) fn of(plan: Plan, origin: String) -> Self {
        Self { api_version: API_VERSION.into(), kind: KIND.into(), origin, plan }
    }

    pub(super) fn to_json(&self) -> String {
        super::to_json(self)
    }

    /// Reads what [`PlanDocument::to_json`] has written.
    ///
    /// # Errors
    /// It is something else, or has been cut short; with line and column.
    pub(super) fn from_json(text: &str, name: &str) -> Result<Self, Failure> {
        let wrong = |reason: String| {
            let message = format!("{name} is no plan: {reason}");
            Failure::new("PLAN_SYNTAX", message, "write it anew with `cellctl plan … -o json`")
        };
        // Of another kind nothing else is looked at: what is missing there would be no help.
        let kind = kind_of(text);
        if !kind.is_empty() && kind != KIND {
            let message = format!("{name} is no plan of moves: its kind is {kind:?}, not {KIND:?}");
            let hint = "give what `cellctl plan rebalance|repair|drain|tiers -o json` has written";
            return Err(Failure::new("PLAN_SYNTAX", message, hint));
        }
        let document: Self = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        match (document.api_version.as_str(), document.kind.as_str()) {
            (API_VERSION, KIND) => match document.contradiction() {
                Some(contradiction) => Err(wrong(contradiction)),
                None => Ok(document),
            },
            (API_VERSION, kind) => Err(wrong(format!("its kind is {kind:?}, not {KIND:?}"))),
            (version, _) => Err(wrong(format!("its version is {version:?}, this program reads {API_VERSION:?}"))),
        }
    }

    /// What no fleet could do, whoever has written it.
    fn contradiction(&self) -> Option<String> {
        let mut moved = BTreeSet::new();
        let moves = self.plan.waves.iter().flat_map(|wave| &wave.moves);
        (1..).zip(moves).find_map(|(number, PlannedMove { tenant, source, target, .. })| {
            if source == target {
                return Some(format!("move {number} takes tenant {tenant} from {source} to {target}, where it is"));
            }
            (!moved.insert(tenant)).then(|| format!("move {number} is a second one of tenant {tenant}"))
        })
    }
}
