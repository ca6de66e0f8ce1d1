//! The PostgreSQL driver: tenants' rows in tables that many tenants share, told apart by a column, or in a schema of the
//! tenant's own ([`layout`] is all that the two differ in), or each in a database of the tenant's own ([`databases`]).
//!
//! ```text
//! application ── cellway.enter(tenant, uid, epoch) ──┐  shared advisory lock, then the grant, in a later statement
//! psql, cron ─── trigger cellway_guard ──────────────┤  the same for whoever does not call it
//!                                                    ▼
//!                     tables ──► write-ahead log ──► replication (one slot for all moves) ──► captures, by tenant
//!                       ▲                                                                        │
//!   hold: exclusive lock, S*, fence in the same session      feed ◄── backfill (snapshots) ──────┤
//!                                                             │ chunks, changes, cuts            ▼
//!   other cell:  tables ◄── applier ◄── follower ◄────────────┘                     digest, at a cut
//! ```
//! * `install` puts the schema `cellway` into the database: grants, controls, the two functions and the trigger.
//! * `catalogue` finds the tenant tables, `check` says which of them cannot be moved, why, and what mends it.
//! * A sequence number is the position in the write-ahead log where a transaction's commit ends: commit order.
//! * `backfill` reads rows under a snapshot; a captured change is left out of what follows only if that snapshot has
//!   seen its transaction. Positions in the log are no measure for that: a commit is in the log before it is visible.
//! * `tails` keeps what a cell that was taken over alone has, read from the log that its slot has kept; `asking` keeps its gates waiting
//!   until somebody has said who owns.
//! * The order of steps, and what they make of a tenant, are those of the embedded driver ([`crate::transition`]).

mod address;
mod applier;
mod asking;
mod backfill;
mod backlog;
mod captures;
mod catalogue;
mod cell;
mod check;
mod connect;
mod data;
mod databases;
mod digest;
mod disk;
mod existing;
mod failover;
mod fault;
mod feed;
mod floor;
mod follower;
mod form;
mod given_up;
mod governor;
mod inspect;
mod install;
mod keeper;
mod layout;
mod leader;
mod leaping;
mod log_end;
mod look;
mod narrow;
mod options;
mod outside;
mod records;
mod replication;
mod schemas;
mod seal;
mod snapshot;
mod sql;
mod standbys;
mod steps;
mod tails;
mod tenant;
mod throttle;
mod tls;
mod tunnel;
mod wal;

pub use address::{AddressInvalid, DatabaseAddress};
pub(crate) use cell::Cell;
pub use data::{Committed, TenantDatabase};
pub(crate) use databases::Databases;
pub use fault::Fault;
pub use inspect::{Found, Inspection, inspect_database};
pub use options::DatabaseOptions;
