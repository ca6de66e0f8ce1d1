//! The smallest honest tenant application: JSON documents and counters of many tenants, in one cell.
//!
//! It is what an application has to do to live in a cell, and no more:
//!
//! * every write is one transaction on the tenant's rows ([`cell_agent::TenantData`]), under the stamp that the gate
//!   has checked and that the data layer checks again;
//! * the answer to a write with an `Idempotency-Key` is a row of the tenant, written in the same transaction, so that
//!   it moves with the tenant;
//! * where the data layer says that nothing has run, the application passes that on and the gate tells the router;
//! * where nobody knows, it says so: 504 `OUTCOME_UNKNOWN`.
//!
//! With a database's address it does the same on PostgreSQL, in tables that all tenants share, told apart by row-level
//! security; `cellway.enter` at the beginning of each transaction is all that is added. There it also keeps a shop for each
//! tenant, where it is told to.
//!
//! [`Cell`] puts an agent, some instances of the application ([`Documents`]) and their gates into one process.

mod app;
mod cell;
mod options;
mod problem;

pub use app::{Documents, TablesError};
pub use cell::{Addresses, Cell, Error, run};
pub use options::Options;
#[cfg(feature = "planted")]
pub use options::Plant;
