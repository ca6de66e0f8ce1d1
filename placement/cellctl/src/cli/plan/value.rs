//! Values as people write them: sizes, shares, shapes, times, cells that are not there yet.

use cell_model::{CellId, CellKind, UnixMillis};
use cell_planner::{Amounts, GrowthRule};
use clap::ValueEnum;

use crate::cli::Tier;
use crate::cli::cells::Kind;

/// Bytes in a second; 0: no limit.
pub(in crate::cli) fn byte_rate(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text) }
}

/// Bytes as people write them: `1048576`, `500MB`, `1.5 TiB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 10] = [
        ("", 1.0),
        ("b", 1.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
        ("kib", 1024.0),
        ("mib", 1_048_576.0),
        ("gib", 1_073_741_824.0),
        ("tib", 1_099_511_627_776.0),
    ];
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim().to_lowercase();
    let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let value = number.parse::<f64>().ok().zip(scale).map(|(number, scale)| (number * scale).round());
    match value {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "its range has just been asked"
        )]
        Some(value) if (1.0..=9e15).contains(&value) => Ok(value as u64),
        _ => Err("give a size from 1 byte to 9 PB, as 500MB, 2TB or 1.5TiB".to_owned()),
    }
}

/// A share: `0.05` or `5%`.
pub(in crate::cli) fn rate(text: &str) -> Result<f64, String> {
    let (number, scale) = text.trim().strip_suffix('%').map_or((text.trim(), 1.0), |number| (number.trim(), 100.0));
    let rate = number.parse::<f64>().ok().map(|number| number / scale).filter(|rate| (0.0..=10.0).contains(rate));
    rate.ok_or_else(|| "give a share from 0 to 10, as 0.05 or 5%".to_owned())
}

/// A share of what there is.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = rate(text).ok().filter(|share| *share <= 1.0);
    share.ok_or_else(|| "give a share from 0 to 1, as 0.05 or 5%".to_owned())
}

pub(super) fn growth_of(text: &str) -> Result<GrowthOf, String> {
    let wrong = || "as tier=gold:8% or region=eu-1:3%".to_owned();
    let (who, monthly) = text.rsplit_once(':').ok_or_else(wrong)?;
    let rule = GrowthRule { monthly: rate(monthly)?, ..GrowthRule::default() };
    match who.split_once('=') {
        Some(("region", region)) if !region.is_empty() => {
            Ok(GrowthOf(GrowthRule { region: region.into(), ..rule }))
        }
        Some(("tier", tier)) => {
            let tier = Tier::from_str(tier, true).map_err(|_| wrong())?;
            Ok(GrowthOf(GrowthRule { tier: Some(tier.into()), ..rule }))
        }
        _ => Err(wrong()),
    }
}

/// Amounts of all resources: `cpu=16,connections=400,storage=800`.
pub(super) fn shape(text: &str) -> Result<Amounts, String> {
    let wrong = || "give all three, as cpu=16,connections=400,storage=800".to_owned();
    let mut given = [None; 3];
    for part in text.split(',') {
        let (name, amount) = part.trim().split_once('=').ok_or_else(wrong)?;
        let at = ["cpu", "connections", "storage"].iter().position(|of| *of == name).ok_or_else(wrong)?;
        let amount = amount.parse::<f64>().map_err(|_| wrong())?;
        if given[at].replace(amount).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    match given {
        [Some(cpu), Some(connections), Some(storage)] => Ok(Amounts { cpu, connections, storage }),
        _ => Err(wrong()),
    }
}

pub(super) fn time(text: &str) -> Result<UnixMillis, String> {
    let at = humantime::parse_rfc3339_weak(text).map_err(|error| format!("{error}: as 2026-03-01T06:00:00Z"))?;
    let since = at.duration_since(std::time::UNIX_EPOCH).map_err(|_| "a time after 1970 is wanted".to_owned())?;
    u64::try_from(since.as_millis()).map(UnixMillis).map_err(|_| "that is too far away".to_owned())
}

/// A rule of growth.
#[derive(Debug, Clone, PartialEq)]
pub struct GrowthOf(pub GrowthRule);

/// A cell that is not there yet, and who may be on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedCell {
    /// Its name.
    pub id: CellId,
    /// Legal zone of its data; empty: none.
    pub residency: String,
    /// Where it is to stand; empty: nobody says.
    pub region: String,
    /// What it is for.
    pub kind: CellKind,
}

/// `eu-3,residency=eu,region=eu-west,kind=dedicated`: a name, and what is said of it.
pub(super) fn added_cell(text: &str) -> Result<AddedCell, String> {
    let wrong =
        || "give a name, and what is known of the cell: eu-3,residency=eu,region=eu-west,kind=dedicated".to_owned();
    let mut parts = text.split(',').map(str::trim);
    let id = CellId::new(parts.next().unwrap_or_default()).map_err(|error| error.to_string())?;
    let (mut residency, mut region, mut kind) = (None, None, None);
    for part in parts {
        let (name, value) = part.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(wrong)?;
        let twice = match name {
            "residency" => residency.replace(value.to_owned()).is_some(),
            "region" => region.replace(value.to_owned()).is_some(),
            "kind" => {
                let named = Kind::from_str(value, true).map_err(|_| wrong())?;
                kind.replace(CellKind::from(named)).is_some()
            }
            _ => return Err(wrong()),
        };
        if twice {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(AddedCell {
        id,
        residency: residency.unwrap_or_default(),
        region: region.unwrap_or_default(),
        kind: kind.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!([bytes("7"), bytes("500MB"), bytes("1.5 TiB")], [Ok(7), Ok(500_000_000), Ok(1_649_267_441_664)]);
        for bad in ["", "0", "-1", "12 parsecs", "1e300", "99999TB", "1.2.3GB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_shares_or_per_cent() {
        assert_eq!([rate("0.05"), rate("5%"), rate(" 100 %")], [Ok(0.05), Ok(0.05), Ok(1.0)]);
        assert!(share("101%").is_err() && share("100%") == Ok(1.0) && rate("200%") == Ok(2.0));
        assert!(rate("-1%").is_err() && rate("NaN").is_err() && rate("much").is_err());
        let of = growth_of("tier=gold:8%").unwrap().0;
        assert_eq!((of.tier, of.monthly), (Some(cell_model::Tier::Gold), 0.08));
        assert_eq!(growth_of("region=eu-1:3%").unwrap().0.region, "eu-1");
        for bad in ["gold:8%", "tier=tin:8%", "region=:3%", "tier=gold"] {
            assert!(growth_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_shape_names_all_resources_once() {
        let read = shape("cpu=16, connections=400,storage=0.5").unwrap();
        assert_eq!((read.cpu, read.connections, read.storage), (16.0, 400.0, 0.5));
        for bad in ["", "cpu=16", "cpu=1,cpu=2,storage=3", "cpu=1,connections=2,storage=much", "tea=1"] {
            assert!(shape(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cell_that_comes_may_say_what_it_is() {
        let read = added_cell("eu-3, residency=eu,kind=dedicated").unwrap();
        assert_eq!((read.id.as_str(), read.residency.as_str(), read.kind), ("eu-3", "eu", CellKind::Dedicated));
        assert_eq!(added_cell("eu-3").unwrap().kind, CellKind::Pooled);
        for bad in
            ["", "EU_3", "eu-3,eu", "eu-3,zone=eu", "eu-3,kind=large", "eu-3,region=a,region=b", "eu-3,region="]
        {
            assert!(added_cell(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_as_rfc_3339_has_them() {
        assert_eq!(time("1970-01-02T00:00:00Z"), Ok(UnixMillis(86_400_000)));
        assert!(time("tomorrow").is_err_and(|said| said.contains("2026-03-01T06:00:00Z")));
    }
}
