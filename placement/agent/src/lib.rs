//! The agent of a cell: where write safety lives.
//!
//! A cell refuses what it does not own, whatever a router or a coordinator believes. The agent keeps, durably and per
//! tenant, what this cell is to it (its *grant*), and moves the tenant's data from cell to cell.

mod data;
pub mod engine;
mod keys;
mod rows;
mod tenants;

pub use data::{ReadError, TenantData, WriteError};
pub use rows::{KEY_BYTES_MAX, RowError, SCAN_ROWS_MAX, Transaction, VALUE_BYTES_MAX, View, WRITE_BYTES_MAX, WRITE_ROWS_MAX};
