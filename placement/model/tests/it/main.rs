//! The protocol as a whole, driven through `Fleet::apply` as the store drives it.

mod commands;
mod house;
mod lifecycle;
mod properties;
mod world;
