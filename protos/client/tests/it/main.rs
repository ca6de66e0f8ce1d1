//! The clients against servers that refuse, fall silent, or are not there.
#![expect(clippy::unwrap_used, reason = "a test ends where something does not hold")]

mod agents;
mod lost_answers;
mod roles;
mod silent;
