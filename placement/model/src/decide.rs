//! stub
use crate::{Change, Envelope, FleetView, Rejected, Stamp};
/// Everything that a command changes, or why it is refused.
pub fn decide(_fleet: &dyn FleetView, _envelope: &Envelope, _stamp: Stamp) -> Result<Vec<Change>, Rejected> { Ok(vec![]) }
