//! What may be typed to say what a cell is, so that tenants are placed by it.

use cell_model::{Capacity, CellId, CellKind, CellTraits, Declaration};
use clap::{Args, ValueEnum};

/// `cell declare`.
#[derive(Debug, Clone, Args)]
pub struct Declare {
    /// Which cell
    pub name: CellId,
    /// What else tenants are placed by
    #[command(flatten)]
    pub traits: Traits,
    /// Where it stands
    #[arg(long)]
    pub region: Option<String>,
    /// Legal zone of its data; another than before only of an empty cell
    #[arg(long)]
    pub residency: Option<String>,
}

impl From<Declare> for Declaration {
    fn from(asked: Declare) -> Self {
        let Traits { kind, domain, capacity, reserve } = asked.traits;
        let (region, residency) = (asked.region, asked.residency);
        Self { kind: kind.map(Into::into), domain, capacity, reserve, region, residency }
    }
}

/// What may be declared of a cell besides where it is.
#[derive(Debug, Clone, Default, Args)]
pub struct Traits {
    /// Whether tenants share it, or one platinum tenant has it to itself [a new cell: pooled]
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    /// What fails together with it: a rack, a building, a zone
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// What it has, as cpu=16,connections=400,storage=800: cores, connections to its database, GB; what is left out is not known
    #[arg(long, value_parser = capacity, value_name = "AMOUNTS")]
    pub capacity: Option<Capacity>,
    /// Share of it that is not planned with, as 10%
    #[arg(long, value_parser = reserve, value_name = "SHARE")]
    pub reserve: Option<u16>,
}

impl From<Traits> for CellTraits {
    fn from(asked: Traits) -> Self {
        let default = Self::default();
        Self {
            kind: asked.kind.map_or(default.kind, Into::into),
            domain: asked.domain.unwrap_or(default.domain),
            capacity: asked.capacity.unwrap_or(default.capacity),
            reserve: asked.reserve.unwrap_or(default.reserve),
        }
    }
}

/// As [`CellKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Shared by tenants
    Pooled,
    /// For one platinum tenant
    Dedicated,
}

impl From<Kind> for CellKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Pooled => Self::Pooled,
            Kind::Dedicated => Self::Dedicated,
        }
    }
}

/// Amounts by name, as [`super::plan`] takes them of a shape; here some may be left out.
fn capacity(text: &str) -> Result<Capacity, String> {
    let wrong = || "as cpu=16,connections=400,storage=800, each above 0 and at most 2,000,000".to_owned();
    let mut capacity = Capacity::default();
    for part in text.split(',') {
        let (name, amount) = part.trim().split_once('=').ok_or_else(wrong)?;
        let amount =
            amount.parse::<f64>().ok().filter(|amount| (0.001..=2e6).contains(amount)).ok_or_else(wrong)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "its range has just been asked"
        )]
        let thousandths = (amount * 1e3).round() as u64;
        let of = match name {
            "cpu" => &mut capacity.cpu,
            "connections" => &mut capacity.connections,
            "storage" => &mut capacity.storage,
            _ => return Err(wrong()),
        };
        if std::mem::replace(of, thousandths) != 0 {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(capacity)
}

/// A share in thousandths.
fn reserve(text: &str) -> Result<u16, String> {
    let share = super::plan::rate(text).ok().filter(|share| *share < 0.9995);
    let share = share.ok_or_else(|| "give a share from 0 to below 1, as 0.1 or 10%".to_owned())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range has just been asked")]
    let thousandths = (share * 1e3).round() as u16;
    Ok(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_by_name_and_some_may_be_left_out() {
        let read = capacity("storage=0.5, cpu=16").unwrap();
        assert_eq!(read, Capacity { cpu: 16_000, connections: 0, storage: 500 });
        for bad in ["", "cpu", "cpu=0", "cpu=-1", "cpu=NaN", "cpu=1e9", "cpu=much", "tea=1", "cpu=1,cpu=2"] {
            assert!(capacity(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reserve_leaves_something() {
        assert_eq!([reserve("10%"), reserve("0.25"), reserve("0")], [Ok(100), Ok(250), Ok(0)]);
        for bad in ["100%", "1", "99.99%", "-5%", "NaN", "some"] {
            assert!(reserve(bad).is_err(), "{bad}");
        }
    }
}
