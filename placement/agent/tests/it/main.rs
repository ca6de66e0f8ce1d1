//! Two agents over real gRPC, moved by the test in the coordinator's place.

mod cells;
mod copying;
mod deciding;
mod moving;
#[cfg(feature = "planted")]
mod planted;
mod restarting;
