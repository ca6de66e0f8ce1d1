//! Cells whose tenants are in PostgreSQL.

mod adopting;
mod budget;
mod copying;
mod fence;
mod ground;
mod layouts;
mod moving;
mod preflight;
mod schemas;
mod server;
mod surviving;
mod telling;
mod throttling;
mod tls;
