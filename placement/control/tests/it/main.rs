//! Whole nodes in one process, over real sockets and real disks, driven through the clients that everybody uses.

#![expect(clippy::unwrap_used, reason = "a test ends where something does not hold")]

mod audit;
mod cluster;
mod commands;
mod keys;
mod nodes;
mod requests;
mod routers;
mod security;
mod startup;
mod watch;
