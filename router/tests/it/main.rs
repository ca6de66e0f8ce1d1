//! A whole router on loopback, between real HTTP clients, gates made of hyper, and a control plane made of channels.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod control;
mod fleet;
mod foreign;
mod frames;
mod gate;
mod tls_gate;

mod access_log;
mod attacks;
mod bad_input;
mod containment;
mod corpus;
mod driving;
mod fairness;
mod handover;
mod instances;
mod moving;
mod partition;
mod passing;
mod process;
mod protocols;
mod quiesce;
mod resting;
mod rfc9113;
mod secure;
mod slow;
mod streams;
mod telling;
mod ungated;
mod untrusted;
mod websocket;
