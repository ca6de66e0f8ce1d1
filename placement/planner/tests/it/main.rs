//! What the planner promises, asked from outside.

mod decisions;
mod input;
mod plans;
mod prefixes;
mod rings;
mod world;
