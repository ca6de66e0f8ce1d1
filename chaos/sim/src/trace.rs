//! What happened, in order, and a hash of it: the same seed gives the same hash.
//!
//! Lines are what clients, watchers and nemesis did, with their simulated times. Between them the hash takes in how
//! many messages are under way on each link at each tick, so that it also tells runs apart whose nodes did different
//! things without any client noticing.

use std::fmt;
use std::fmt::Write;
use std::time::Duration;

use turmoil::Sim;

/// The trace of one run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    lines: Vec<String>,
    healed_at: Option<Duration>,
}

impl Trace {
    /// Adds a line.
    pub(crate) fn note(&mut self, at: Duration, line: fmt::Arguments<'_>) {
        let mut text = String::new();
        write!(text, "{:>9.3} {line}", at.as_secs_f64()).expect("a string takes everything");
        self.hasher.update(text.as_bytes());
        self.lines.push(text);
    }

    /// Adds how many messages are under way on each link.
    pub(crate) fn count_messages(&mut self, sim: &Sim<'_>) {
        sim.links(|links| {
            for link in links {
                self.hasher.update(&link.count().to_le_bytes());
            }
        });
    }

    /// From now on nothing breaks any more.
    pub(crate) fn heal(&mut self, at: Duration) {
        self.note(at, format_args!("healed"));
        self.healed_at = Some(at);
    }

    /// When that was.
    pub(crate) const fn healed_at(&self) -> Option<Duration> {
        self.healed_at
    }

    /// The hash of everything so far.
    #[must_use]
    pub(crate) fn hash(&self) -> String {
        self.hasher.finalize().to_hex()[..16].to_owned()
    }

    /// The lines so far.
    #[must_use]
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }
}
