//! What a move has met.

use cell_client::wire;
use serde::Serialize;

/// Why a step has come to nothing, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetbackView {
    /// Stable.
    pub code: String,
    /// The step, and a sentence.
    pub reason: String,
    /// When it was first met,
    pub since_unix_ms: u64,
    /// and last.
    pub last_unix_ms: u64,
}

impl From<wire::Setback> for SetbackView {
    fn from(setback: wire::Setback) -> Self {
        let wire::Setback { code, reason, since_unix_ms, last_unix_ms } = setback;
        Self { code, reason, since_unix_ms, last_unix_ms }
    }
}
