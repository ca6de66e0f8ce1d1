//! Why a step was not done.

use crate::engine::EngineError;
use crate::rows::RowError;

/// A refusal of a step: it changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Refusal {
    /// Stable code, as the protocol lists them.
    pub code: &'static str,
    /// Why, as a sentence.
    pub reason: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    pub(crate) fn internal(reason: impl std::fmt::Display) -> Self {
        Self::new("INTERNAL", reason.to_string())
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self::internal(error)
    }
}

impl From<RowError> for Refusal {
    fn from(error: RowError) -> Self {
        Self::internal(error)
    }
}
