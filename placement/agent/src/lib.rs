//! The agent of a cell: where write safety lives.
//!
//! A cell refuses what it does not own, whatever a router or a coordinator believes. The agent keeps, durably and per
//! tenant, what this cell is to it (its *grant*), and moves the tenant's data from cell to cell:
//!
//! ```text
//! coordinator ── steps ──►  transition (pure) ──► one batch that expects the old grant ──► durable ──► answer
//! application ── write ──►  admission ──► rows, digest, seq, captured change: one such batch ──► durable ──► answer
//! gates ◄── grants, lease ──  board                      │
//! other agents ◄── change stream ── follow ◄─────────────┘
//! ```
//!
//! * [`TenantData`] is the embedded driver as the application sees it. The epoch check is in the write batch.
//! * `transition` says what each step makes of a tenant: total, pure, tried in every order by its tests. (uid, epoch)
//!   never falls; what is owned or fenced is never deleted.
//! * `hold` is the only thing about a grant that is not durable: it lapses by itself.
//! * `follow` copies: chunks at exact labels and whole transactions in order, so that the copy equals its source at
//!   `applied` as far as its frontier goes, at every moment and after every crash.
//! * `confirm` asks, when an owner starts that may have been taken over meanwhile.
//! * `metrics` says to Prometheus what nobody else counts.
//! * `hooks` tell what lives beside the tenants' rows – files, search, queues – what becomes of a tenant.
//! * `scan` verifies with code of its own, `durable` commits in groups, [`engine`] is the store.

mod agent;
mod board;
mod capture;
mod confirm;
mod data;
mod digest;
mod driver;
mod durable;
mod embedded;
pub mod engine;
mod error;
mod follow;
mod grpc;
mod hold;
mod hooks;
mod keys;
mod metrics;
mod newest;
mod options;
mod pem;
#[cfg(feature = "planted")]
mod planted;
mod postgres;
mod recent;
mod record;
mod refusal;
mod rows;
mod scan;
mod staging;
mod steps;
mod tenant;
mod tenants;
mod transition;
mod unsynced;
mod writes;

pub use agent::Agent;
pub use data::{ReadError, TenantData, WriteError};
pub use error::AgentError;
pub use hooks::{HookInvalid, HookOptions, HookPhase, HooksOptions};
pub use newest::NewestMappings;
pub use options::{AgentOptions, Limits};
pub use pem::PemError;
#[cfg(feature = "planted")]
pub use planted::Planted;
pub use postgres::{
    AddressInvalid, Committed, DatabaseAddress, DatabaseOptions, Fault, Found, Inspection, TenantDatabase,
    inspect_database,
};
pub use record::RecordError;
pub use refusal::Refusal;
pub use rows::{
    KEY_BYTES_MAX, RowError, SCAN_ROWS_MAX, Transaction, VALUE_BYTES_MAX, View, WRITE_BYTES_MAX, WRITE_ROWS_MAX,
};
