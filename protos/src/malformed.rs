//! Why a message cannot be read as what it claims to be.

use cell_model::{CellId, InvalidId, MoveId, TenantId};

/// A field that is missing or makes no sense. The whole message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Malformed {
    /// The field, as the .proto file names it.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl Malformed {
    /// Stable code, with a row in `docs/errors`.
    pub const CODE: &'static str = "INVALID_ARGUMENT";

    /// A field with a reason.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }

    pub(crate) fn missing(field: &'static str) -> Self {
        Self::new(field, "it is missing")
    }
}

fn id<T>(field: &'static str, parsed: Result<T, InvalidId>) -> Result<T, Malformed> {
    parsed.map_err(|invalid| Malformed::new(field, invalid.to_string()))
}

pub(crate) fn tenant_id(field: &'static str, text: &str) -> Result<TenantId, Malformed> {
    id(field, TenantId::new(text))
}

pub(crate) fn cell_id(field: &'static str, text: &str) -> Result<CellId, Malformed> {
    id(field, CellId::new(text))
}

pub(crate) fn cell_id_or_none(field: &'static str, text: &str) -> Result<Option<CellId>, Malformed> {
    if text.is_empty() { Ok(None) } else { cell_id(field, text).map(Some) }
}

pub(crate) fn move_id(field: &'static str, text: &str) -> Result<MoveId, Malformed> {
    id(field, text.parse())
}
