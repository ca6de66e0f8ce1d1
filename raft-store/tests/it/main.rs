//! Whole nodes of the store: real files, real gRPC on loopback, in one process.

mod cluster;
mod damage;
mod fixture;
mod single;
mod watching;
