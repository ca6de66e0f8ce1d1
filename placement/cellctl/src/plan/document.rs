//! A plan as a file: what `plan … -o json` writes and `apply` reads.

use cell_planner::Plan;
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
        let document: Self = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        match (document.api_version.as_str(), document.kind.as_str()) {
            (API_VERSION, KIND) => Ok(document),
            (API_VERSION, kind) => Err(wrong(format!("its kind is {kind:?}, not {KIND:?}"))),
            (version, _) => Err(wrong(format!("its version is {version:?}, this program reads {API_VERSION:?}"))),
        }
    }
}
