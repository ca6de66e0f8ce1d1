//! Crashes and losses.
