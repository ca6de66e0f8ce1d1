//! Cells whose tenants are in PostgreSQL.

mod adopting;
mod budget;
mod copying;
mod fence;
mod ground;
mod moving;
mod preflight;
mod server;
mod surviving;
mod telling;
mod throttling;
mod tls;
