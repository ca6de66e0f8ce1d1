//! Whole nodes of the store: real files, real gRPC on loopback, in one process.
#![expect(clippy::unwrap_used, reason = "what fails in a fixture fails the test")]

mod backups;
mod cluster;
mod damage;
mod fixture;
mod layouts;
mod members;
mod partition;
mod single;
mod verifying;
mod watching;
