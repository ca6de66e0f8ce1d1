//! The file: who is where. Read whole; every line that cannot be used is told, not only the first.

use std::collections::BTreeMap;
use std::fmt;

use cell_model::{CellId, TenantId, Tier};

/// Lines that are read; a million tenants and some remarks.
const LINES_MAX: usize = 1_100_000;
/// Wrong lines that are told.
const WRONG_MAX: usize = 100;

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub line: usize,
    pub tenant: TenantId,
    pub cell: CellId,
    pub tier: Tier,
    pub residency: String,
}

/// Why a line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub line: usize,
    pub why: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  line {}: {}", self.line, self.why)
    }
}

/// Reads it all.
pub(super) fn read(text: &str) -> Result<Vec<Entry>, Vec<Wrong>> {
    let (mut entries, mut wrong) = (Vec::new(), Vec::new());
    let mut seen: BTreeMap<TenantId, usize> = BTreeMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in (1..).zip(text.lines()) {
        if wrong.len() >= WRONG_MAX {
            wrong.push(Wrong { line, why: "the rest was not read".into() });
            break;
        }
        if line > LINES_MAX {
            wrong.push(Wrong { line, why: format!("at most {LINES_MAX} lines are read: split the file") });
            break;
        }
        let content = content.trim();
        let is_header = entries.is_empty() && content.replace(' ', "").starts_with("tenant,cell");
        if content.is_empty() || content.starts_with('#') || is_header {
            continue;
        }
        match entry(line, content) {
            Ok(entry) => match seen.insert(entry.tenant.clone(), line) {
                None => entries.push(entry),
                Some(first) => {
                    let why = format!("tenant {} is in line {first} already", entry.tenant);
                    seen.insert(entry.tenant, first);
                    wrong.push(Wrong { line, why });
                }
            },
            Err(why) => wrong.push(Wrong { line, why }),
        }
    }
    if entries.is_empty() && wrong.is_empty() {
        wrong.push(Wrong { line: 1, why: "there is no tenant in the file: write tenant,cell on each line".into() });
    }
    if wrong.is_empty() { Ok(entries) } else { Err(wrong) }
}

fn entry(line: usize, content: &str) -> Result<Entry, String> {
    let fields: Vec<&str> = content.split(',').map(str::trim).collect();
    let (tenant, cell, rest) = match fields.as_slice() {
        [tenant, cell, rest @ ..] if rest.len() <= 2 => (*tenant, *cell, rest),
        fields => {
            let count = fields.len();
            return Err(format!(
                "{count} fields instead of tenant,cell[,tier[,residency]]: {}",
                shortened(content)
            ));
        }
    };
    let tier = match rest.first().copied().unwrap_or_default() {
        "" | "bronze" => Tier::Bronze,
        "silver" => Tier::Silver,
        "gold" => Tier::Gold,
        "platinum" => Tier::Platinum,
        other => return Err(format!("{:?} is no tier: bronze, silver, gold or platinum", shortened(other))),
    };
    Ok(Entry {
        line,
        tenant: tenant.parse().map_err(|invalid: cell_model::InvalidId| invalid.to_string())?,
        cell: cell.parse().map_err(|invalid: cell_model::InvalidId| invalid.to_string())?,
        tier,
        residency: rest.get(1).copied().unwrap_or_default().to_owned(),
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_remarks_and_a_header_are_read() {
        let text = "tenant, cell, tier\n# ours\nacme,c1\n\nglobex , c2 , gold , eu\r\n";
        let entries = read(text).unwrap();
        let told: Vec<(usize, &str, &str, Tier, &str)> = entries
            .iter()
            .map(|entry| {
                (entry.line, entry.tenant.as_str(), entry.cell.as_str(), entry.tier, entry.residency.as_str())
            })
            .collect();
        assert_eq!(told, [(3, "acme", "c1", Tier::Bronze, ""), (5, "globex", "c2", Tier::Gold, "eu")]);
    }

    #[test]
    fn every_wrong_line_is_told_with_its_number_and_why() {
        let text =
            "acme,c1\nAcme Corp,c1\nglobex\nacme,c2\ninitech,c1,diamond\numbrella,c1,gold,eu,more\nhooli,C 1\n";
        let told: Vec<String> = read(text).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 6, "{told:#?}");
        let has = |line: usize, words: &str| {
            let of_line = told.iter().find(|text| text.starts_with(&format!("  line {line}: ")));
            assert!(of_line.is_some_and(|text| text.contains(words)), "line {line}: {told:#?}");
        };
        has(2, "tenant id");
        has(3, "1 fields instead of tenant,cell");
        has(4, "tenant acme is in line 1 already");
        has(5, "\"diamond\" is no tier");
        has(6, "5 fields");
        has(7, "cell id");
    }

    #[test]
    fn a_file_without_tenants_is_told_apart_from_one_that_is_right() {
        assert!(read("# nothing\n\n").unwrap_err()[0].why.contains("no tenant"));
    }

    #[test]
    fn a_file_that_is_something_else_ends_after_a_hundred_lines() {
        let told = read(&"{\"not\": \"this\"}\n".repeat(5_000)).unwrap_err();
        assert_eq!(told.len(), WRONG_MAX + 1);
        assert!(told[WRONG_MAX].why.contains("not read"));
    }
}
