//! The coordinator over a store in memory and cells that do what they are told, killed at every edge of every step.

mod cells;
mod edges;
mod endings;
mod paper;
