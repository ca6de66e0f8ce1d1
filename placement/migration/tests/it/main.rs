//! The coordinator over a store in memory and cells that do what they are told, killed at every edge of every step.

#![allow(clippy::unwrap_used, reason = "a test says by panicking that it cannot go on")]

mod cells;
mod crowd;
mod edges;
mod endings;
mod mending;
mod paper;
mod reach;
mod routers;
mod takeover;
