//! Soon.
use super::Drill;
pub(super) fn drills() -> Vec<Drill> {
    Vec::new()
}
