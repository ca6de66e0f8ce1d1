//! A PostgreSQL server of one's own, for tests, benchmarks and drills.
//!
//! ```text
//! Server::start(options) ─► initdb, settings, pg_ctl start ─► a watchdog: once process `until` is gone, it stops the
//!                                                             server and removes its directory
//! drop ─► stopped and removed at once          leave() ─► left to the watchdog
//! ```
//! The server never runs as root: where the caller is root, it runs as the user `postgres`. The watchdog has a process group
//! of its own, so it outlives whatever ends its caller: a panic, Ctrl-C, SIGKILL.

mod pause;
mod server;

pub use pause::Paused;
pub use server::{Options, Server, ServerError, installed, unprivileged};
