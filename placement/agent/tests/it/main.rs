//! Two agents over real gRPC, moved by the test in the coordinator's place.

#![allow(clippy::unwrap_used, reason = "a test says by panicking that it cannot go on")]

mod authority;
mod cells;
mod copying;
mod deciding;
mod hanging;
mod hooking;
mod mending;
mod moving;
#[cfg(feature = "planted")]
mod planted;
mod postgres;
mod restarting;
mod strangers;
mod takeover;
