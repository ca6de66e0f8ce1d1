//! `cellctl` as a process: what it prints, how it exits, and whole demos.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "planted"))]
mod adopt;
mod apply;
mod asking;
mod care;
mod cli;
mod demo;
mod drill;
mod house_options;
mod moves;
#[cfg(not(feature = "planted"))]
mod orphans;
mod plan;
#[cfg(not(feature = "planted"))]
mod postgres;
mod program;
mod restoring;
#[path = "../../../agent/tests/it/postgres/server.rs"]
#[expect(dead_code, reason = "the agent's own tests use more of it")]
mod server;
#[cfg(not(feature = "planted"))]
mod shop;
mod takeover;
mod tiers;
#[cfg(not(feature = "planted"))]
mod ungated;
mod verifying;
