//! The command line of Cellway, and the place where all crates come together.
//!
//! `cli` is what may be typed, [`usage`] says what else would; `commands` talks to the control plane; [`view`] and [`render`] make text of records and
//! are pure; `store` looks after the control plane's own store; `follow` shows a move while it runs; `plan` decides where
//! tenants belong and carries plans out; `adopt`, `enroll` and `ids` bring what exists under Cellway; `dev` hosts a whole fleet in this process, `demo` runs one of many
//! processes and judges it, `drill` breaks one on purpose; `host` runs one server. Data goes to standard output, everything else to standard error.

mod adopt;
mod audit_chain;
mod cli;
mod commands;
mod console;
mod demo;
mod dev;
mod drill;
mod endpoints;
mod enroll;
mod exports;
mod failure;
mod follow;
mod host;
mod ids;
mod pages;
mod plan;
mod proof;
pub mod render;
mod store;
pub mod usage;
pub mod view;

pub use cli::{Cli, Output};
pub use commands::run;
pub use failure::{Exit, Failure};
