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
    /// Gates stand before its application by now: take back --without-gate
    #[arg(long, conflicts_with_all = ["without_gate", "instances"])]
    pub gated: bool,
    /// Of a cell without a gate: each instance of its application, all of them
    #[arg(long = "gate", value_name = "HOST:PORT", value_delimiter = ',')]
    pub instances: Vec<String>,
}

impl From<Declare> for Declaration {
    fn from(asked: Declare) -> Self {
        let Traits { kind, domain, reserve, databases, capacity: _, without_gate } = asked.traits;
        let (region, residency) = (asked.region, asked.residency);
        let ungated = (without_gate || asked.gated).then_some(without_gate);
        let instances = Some(asked.instances).filter(|instances| !instances.is_empty());
        // The capacity stands on what was declared before.
        let databases = databases.map(Into::into);
        Self {
            kind: kind.map(Into::into),
            domain,
            capacity: None,
            reserve,
            region,
            residency,
            databases,
            ungated,
            instances,
        }
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
    /// What it has, as cpu=16,connections=400,storage=800: cores, connections to its database, GB. What is left out stays, of a new
    /// cell it is not known; `unknown` in place of a number takes it back
    #[arg(long, value_parser = amounts, value_name = "AMOUNTS")]
    pub capacity: Option<Amounts>,
    /// Share of it that is not planned with, as 10%
    #[arg(long, value_parser = reserve, value_name = "SHARE")]
    pub reserve: Option<u16>,
    /// Whether each tenant has a database of its own there, as gold is sold, or several share one [a new cell: as enroll is told of
    /// its database, otherwise not known]
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub databases: Option<Databases>,
    /// Nobody stands before its application, which is at each --gate: moves are fenced by its database alone, and routers hold back
    /// what gates would (docs/adopt.md)
    #[arg(long)]
    pub without_gate: bool,
}

/// As [`cell_model::Databases`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Databases {
    /// Several tenants lie in one: nobody is gold there
    Shared,
    /// Each tenant has one of its own
    Own,
}

impl From<Databases> for cell_model::Databases {
    fn from(databases: Databases) -> Self {
        match databases {
            Databases::Shared => Self::Shared,
            Databases::Own => Self::Own,
        }
    }
}

impl From<Traits> for CellTraits {
    fn from(asked: Traits) -> Self {
        let default = Self::default();
        Self {
            kind: asked.kind.map_or(default.kind, Into::into),
            domain: asked.domain.unwrap_or(default.domain),
            capacity: asked.capacity.unwrap_or_default().over(default.capacity),
            reserve: asked.reserve.unwrap_or(default.reserve),
            databases: asked.databases.map(Into::into),
            ungated: asked.without_gate,
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

/// What is said of a capacity, in thousandths: 0 where it is said that nobody knows it, nothing where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    cpu: Option<u64>,
    connections: Option<u64>,
    storage: Option<u64>,
}

impl Amounts {
    /// What is said, and the rest as it was.
    #[must_use]
    pub fn over(self, before: Capacity) -> Capacity {
        Capacity {
            cpu: self.cpu.unwrap_or(before.cpu),
            connections: self.connections.unwrap_or(before.connections),
            storage: self.storage.unwrap_or(before.storage),
        }
    }
}

/// Amounts by name, as [`super::plan`] takes them of a shape; here some may be left out.
fn amounts(text: &str) -> Result<Amounts, String> {
    let wrong = || {
        "as cpu=16,connections=400,storage=800, each above 0 and at most 2,000,000, or `unknown`; one alone will do"
            .to_owned()
    };
    let mut amounts = Amounts::default();
    for part in text.split(',') {
        let (name, amount) = part.trim().split_once('=').ok_or_else(wrong)?;
        let of = match name {
            "cpu" => &mut amounts.cpu,
            "connections" => &mut amounts.connections,
            "storage" => &mut amounts.storage,
            _ => return Err(wrong()),
        };
        if of.replace(thousandths(amount).ok_or_else(wrong)?).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(amounts)
}

fn thousandths(amount: &str) -> Option<u64> {
    if amount == "unknown" {
        return Some(0);
    }
    let amount = amount.parse::<f64>().ok().filter(|amount| (0.001..=2e6).contains(amount))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range has just been asked")]
    let thousandths = (amount * 1e3).round() as u64;
    Some(thousandths)
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
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, OfCells};

    #[test]
    fn a_gate_is_declared_away_with_where_the_application_is_and_back() {
        let declared = |line: &str| {
            let cli = Cli::try_parse_from(format!("cellctl cell declare c1 {line}").split_whitespace());
            cli.map(|cli| match cli.command {
                Command::Cell(OfCells::Declare(asked)) => Declaration::from(asked),
                _ => panic!("another command"),
            })
        };
        let without = declared("--without-gate --gate a:1 --gate b:2").unwrap();
        assert_eq!((without.ungated, without.instances), (Some(true), Some(vec!["a:1".into(), "b:2".into()])));
        let back = declared("--gated").unwrap();
        assert_eq!((back.ungated, back.instances), (Some(false), None));
        assert_eq!(declared("--reserve 10%").unwrap().ungated, None, "what is not said stays");
        assert!(declared("--gated --without-gate").is_err() && declared("--gated --gate a:1").is_err());
        let joins =
            |line: &str| Cli::try_parse_from(line.split_whitespace()).map(drop).map_err(|error| error.to_string());
        for line in ["cellctl create cell c1 --agent h:1", "cellctl cell enroll c1 --agent h:1"] {
            assert!(joins(&format!("{line} --without-gate")).unwrap_err().contains("--gate <HOST:PORT>"));
            assert_eq!(joins(&format!("{line} --without-gate --gate h:2")), Ok(()));
            assert_eq!(joins(line), Ok(()));
        }
    }

    #[test]
    fn amounts_are_read_by_name_and_some_may_be_left_out() {
        let read = amounts("storage=0.5, cpu=16").unwrap();
        let new = Capacity { cpu: 16_000, connections: 0, storage: 500 };
        assert_eq!(read.over(Capacity::default()), new);
        let before = Capacity { cpu: 1, connections: 2, storage: 3 };
        assert_eq!(read.over(before), Capacity { connections: 2, ..new }, "what is left out stays");
        assert_eq!(amounts("cpu=unknown").unwrap().over(before), Capacity { cpu: 0, ..before });
        for bad in ["", "cpu", "cpu=0", "cpu=-1", "cpu=NaN", "cpu=1e9", "cpu=much", "tea=1", "cpu=1,cpu=2"] {
            assert!(amounts(bad).is_err(), "{bad}");
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
