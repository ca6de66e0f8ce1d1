//! What a cell has and a tenant wants: three resources, each by hour of the day.
//!
//! A *dimension* is one resource at one hour; there are 72. Amounts are whole thousandths of a unit (millicores,
//! thousandths of a connection, megabytes) in an `f64`, so that sums of them are exact and a load that a tenant has
//! joined and left again is the load that it was.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Hours of a day.
pub const HOURS: usize = 24;
/// Kinds of resource.
pub const RESOURCES: usize = 3;
/// Resources times hours.
pub const DIMS: usize = HOURS * RESOURCES;
/// Thousandths in one unit of a resource.
pub(crate) const SCALE: f64 = 1000.0;

/// One amount for each dimension, in thousandths.
pub(crate) type ByDim = [f64; DIMS];

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// Processor time, in cores.
    Cpu,
    /// Database connections.
    Connections,
    /// Data at rest, in gigabytes.
    Storage,
}

impl Resource {
    /// Every resource, in the order of the dimensions.
    pub const ALL: [Self; RESOURCES] = [Self::Cpu, Self::Connections, Self::Storage];

    /// Its name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Connections => "connections",
            Self::Storage => "storage",
        }
    }

    /// What one of it is called.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "cores",
            Self::Connections => "connections",
            Self::Storage => "GB",
        }
    }

    pub(crate) const fn first_dim(self) -> usize {
        self as usize * HOURS
    }
}

/// One resource at one hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dim {
    /// Of what.
    pub resource: Resource,
    /// At which hour of the day (UTC), 0 to 23.
    pub hour: u8,
}

impl Dim {
    pub(crate) fn at(index: usize) -> Self {
        let hour = u8::try_from(index % HOURS).expect("an hour is below 24");
        Self { resource: Resource::ALL[index / HOURS], hour }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:02}:00", self.resource.name(), self.hour)
    }
}

/// An amount of a resource as people read it: `12.5 GB`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Amount {
    pub(crate) resource: Resource,
    pub(crate) thousandths: f64,
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.thousandths / SCALE;
        let digits = if value.fract() == 0.0 { 0 } else { 3 };
        let text = format!("{value:.digits$}");
        let text = if digits == 0 { text.as_str() } else { text.trim_end_matches('0').trim_end_matches('.') };
        // One of them is no plural.
        let unit = self.resource.unit();
        write!(f, "{text} {}", if text == "1" { unit.trim_end_matches('s') } else { unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dimension_says_what_and_when() {
        assert_eq!(Dim::at(0).to_string(), "cpu at 00:00");
        assert_eq!(Dim::at(HOURS + 14).to_string(), "connections at 14:00");
        assert_eq!(Dim::at(DIMS - 1).to_string(), "storage at 23:00");
    }

    #[test]
    fn an_amount_is_printed_without_idle_digits() {
        let amount = |thousandths| Amount { resource: Resource::Storage, thousandths }.to_string();
        assert_eq!(amount(12_000.0), "12 GB");
        assert_eq!(amount(12_500.0), "12.5 GB");
        assert_eq!(amount(1.0), "0.001 GB");
    }
}
