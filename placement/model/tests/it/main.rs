//! The protocol as a whole, driven through `Fleet::apply` as the store drives it.

#![allow(clippy::unwrap_used, reason = "a test says by panicking that it cannot go on")]

mod commands;
mod declaring;
mod house;
mod lifecycle;
mod properties;
mod reconciling;
mod refusals;
mod retiered;
mod retries;
mod rules;
mod stopping;
mod takeover;
mod tiers;
mod ungated;
mod world;
