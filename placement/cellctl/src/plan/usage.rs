//! What tenants really used, from a file: lines of `tenant,resource,values`, with 24 values for each day, spaces between.
//!
//! A file rarely knows everybody. Who is not in it, and resources that it does not have, count with the means of the
//! fleet, and that is said: nothing counts as nothing by being left out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cell_planner::{DayUsage, Fleet, HOURS, Resource, TenantIx, Usage};

use super::{plural, source};
use crate::failure::Failure;

/// The largest amount that the planner takes.
const AMOUNT_MAX: f64 = 2_000_000.0;

/// One line: where it is, and its days.
struct Row {
    line: usize,
    hours: Vec<f64>,
}

/// Days that were recorded.
pub(super) struct Seen<'a> {
    fleet: &'a Fleet,
    file: PathBuf,
    days: Vec<Vec<DayUsage>>,
    /// Tenants of which it has some resources, and not all.
    in_part: usize,
}

impl Usage for Seen<'_> {
    /// A tenant with fewer days than are asked for begins again with its first.
    fn day(&self, day: u32, tenant: TenantIx, into: &mut DayUsage) {
        match self.days[tenant.index()].as_slice() {
            [] => *into = self.fleet.usual_day(tenant),
            days => into.clone_from(&days[day as usize % days.len()]),
        }
    }
}

impl<'a> Seen<'a> {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or a line makes no sense: told with its number.
    pub(super) fn read(path: &Path, fleet: &'a Fleet) -> Result<Self, Failure> {
        let mut seen =
            Self { fleet, file: path.to_owned(), days: vec![Vec::new(); fleet.tenants().len()], in_part: 0 };
        let rows = seen.rows(&source::text_of(path)?)?;
        for (tenant, rows) in rows {
            seen.take(tenant, rows)?;
        }
        Ok(seen)
    }

    /// What a person should know of what is not in the file.
    pub(super) fn note(&self) -> Option<String> {
        let nothing = self.days.iter().filter(|days| days.is_empty()).count();
        let (file, all) = (self.file.display(), plural(self.days.len(), "tenant"));
        let counts = "they count with the means of the fleet";
        match (nothing, self.in_part) {
            (0, 0) => None,
            (nothing, 0) => Some(format!("note: {file} has nothing of {nothing} of {all}: {counts}")),
            (nothing, part) => Some(format!(
                "note: {file} has nothing of {nothing} of {all}, and not every resource of {part} more: {counts}"
            )),
        }
    }

    fn wrong(&self, line: usize, what: &str) -> Failure {
        let message = format!("{}:{line}: {what}", self.file.display());
        let hint = "lines are tenant,resource,values with 24 numbers a day, after a line of these three names";
        Failure::new("USAGE_SYNTAX", message, hint)
    }

    /// The lines of each tenant, one a resource.
    fn rows(&self, text: &str) -> Result<BTreeMap<usize, [Option<Row>; 3]>, Failure> {
        let mut lines = (1..).zip(text.lines());
        match lines.next() {
            Some((_, head)) if head.split(',').map(str::trim).eq(["tenant", "resource", "values"]) => {}
            _ => return Err(self.wrong(1, "the first line does not name the columns")),
        }
        if !text.ends_with('\n') {
            let last = text.lines().count();
            return Err(self.wrong(last, "the last line does not end: the file may have been cut short"));
        }
        let mut rows: BTreeMap<usize, [Option<Row>; 3]> = BTreeMap::new();
        for (line, text) in lines.filter(|(_, text)| !text.trim().is_empty()) {
            let fields: Vec<&str> = text.split(',').map(str::trim).collect();
            let [name, resource, values] = fields.as_slice() else {
                return Err(self.wrong(line, &format!("it has {}, not 3", plural(fields.len(), "field"))));
            };
            let Some(tenant) = self.fleet.find_tenant(name) else {
                return Err(self.wrong(line, &format!("no tenant {name} in the fleet")));
            };
            let Some(resource) = Resource::ALL.iter().position(|of| of.name() == *resource) else {
                return Err(self.wrong(line, "the resource is not cpu, connections or storage"));
            };
            let values: Result<Vec<f64>, _> = values.split_whitespace().map(str::parse::<f64>).collect();
            let hours = values.unwrap_or_default();
            let allowed = |value: &f64| (0.0..=AMOUNT_MAX).contains(value);
            if hours.is_empty() || !hours.len().is_multiple_of(HOURS) || !hours.iter().all(allowed) {
                return Err(self.wrong(line, "not 24 numbers a day, each from 0 to 2000000"));
            }
            let slot = &mut rows.entry(tenant.index()).or_default()[resource];
            if let Some(before) = slot {
                let what = format!("{} of tenant {name} is already on line {}", fields[1], before.line);
                return Err(self.wrong(line, &what));
            }
            *slot = Some(Row { line, hours });
        }
        Ok(rows)
    }

    fn take(&mut self, index: usize, rows: [Option<Row>; 3]) -> Result<(), Failure> {
        let tenant = self.fleet.tenants().nth(index).expect("the fleet has found it");
        let mut lengths = rows.iter().flatten().map(|row| (row.hours.len() / HOURS, row.line));
        let (days, first) = lengths.next().unwrap_or_default();
        if let Some((other, line)) = lengths.find(|(other, _)| *other != days) {
            let name = self.fleet.tenant_id(tenant);
            let (other, days) = (plural(other, "day"), plural(days, "day"));
            return Err(self.wrong(line, &format!("{other} of tenant {name}, and {days} of it on line {first}")));
        }
        self.in_part += usize::from(rows.iter().any(Option::is_none));
        let mut of = vec![self.fleet.usual_day(tenant); days];
        for (resource, row) in rows.into_iter().enumerate() {
            let Some(Row { hours, .. }) = row else { continue };
            for (day, hours) in of.iter_mut().zip(hours.chunks_exact(HOURS)) {
                day.amounts[resource].copy_from_slice(hours);
            }
        }
        self.days[index] = of;
        Ok(())
    }
}
