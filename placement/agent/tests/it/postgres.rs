//! Cells whose tenants are in PostgreSQL.

mod adopting;
mod budget;
mod copying;
mod databases;
mod each;
mod fence;
mod ground;
mod layouts;
mod leaving;
mod matrix;
mod moving;
mod overtaken;
mod preflight;
mod restored;
mod schemas;
mod server;
mod silence;
mod surviving;
mod tables;
mod telling;
mod throttling;
mod tls;
mod wire;
