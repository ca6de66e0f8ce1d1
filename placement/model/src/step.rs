//! stub
use crate::{Event, MoveRecord, Rejected, Stamp, TenantRecord};
/// What an event makes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stepped {
    /// The record after it.
    pub record: TenantRecord,
    /// The move, if the event ended it.
    pub ended: Option<MoveRecord>,
}
/// One event.
pub fn step(record: &TenantRecord, _event: &Event, _stamp: Stamp) -> Result<Stepped, Rejected> { Ok(Stepped{record: record.clone(), ended: None}) }
