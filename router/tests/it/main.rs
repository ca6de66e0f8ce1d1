//! A whole router on loopback, between real HTTP clients, gates made of hyper, and a control plane made of channels.

mod client;
mod control;
mod fleet;
mod gate;

mod bad_input;
mod moving;
mod partition;
mod passing;
mod process;
mod quiesce;
