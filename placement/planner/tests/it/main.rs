//! What the planner promises, asked from outside.

#![allow(clippy::needless_range_loop, reason = "a dimension is the index of several arrays at once")]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows only the functions marked as tests")]

mod bounds;
mod capacities;
mod decisions;
mod evened;
mod exchanges;
mod input;
mod many;
mod newcomers;
mod plans;
mod prefixes;
mod rings;
mod simulations;
mod tiers;
mod world;

/// So many cases of each property, or as many as `PROPTEST_CASES` says.
fn cases(usual: u32) -> proptest::test_runner::Config {
    let default = proptest::test_runner::Config { max_global_rejects: 1 << 20, ..Default::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        default
    } else {
        proptest::test_runner::Config { cases: usual, ..default }
    }
}
