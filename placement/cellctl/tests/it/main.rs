//! `cellctl` as a process: what it prints, how it exits, and whole demos.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli;
mod demo;
#[cfg(not(feature = "planted"))]
mod postgres;
mod program;
