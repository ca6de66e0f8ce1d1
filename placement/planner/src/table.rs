//! A fleet as two tables (CSV): one of cells, one of tenants, with a line of column names.
//!
//! Columns are found by name, in any order; only `id` must be there. A demand is one number, or 24 numbers with spaces
//! between them, from 00:00. Whatever is wrong is said with its line.

use std::io::Read;
use std::str::FromStr;

use cell_model::{CellState, Revision, Tier, UnixMillis};
use csv::{Reader, ReaderBuilder, StringRecord, Writer};

mod tracked;

use crate::document::{
    Amounts, CellEntry, CellKind, Databases, Demand, FleetDocument, Hourly, ResourceDemand, TenantEntry,
};
use crate::fleet::{Fleet, FleetBuilder};
use crate::problem::{FleetError, Place, ProblemCode, Problems};
use tracked::Tracked;

const CELL_COLUMNS: [&str; 11] = [
    "id",
    "state",
    "kind",
    "region",
    "residency",
    "domain",
    "cpu",
    "connections",
    "storage",
    "reserve",
    "databases",
];
const TENANT_COLUMNS: [&str; 17] = [
    "id",
    "tier",
    "region",
    "residency",
    "group",
    "spike_cluster",
    "pin",
    "cooldown_until",
    "cell",
    "moving_to",
    "arrived_from",
    "cpu_mean",
    "cpu_deviation",
    "connections_mean",
    "connections_deviation",
    "storage_mean",
    "storage_deviation",
];

/// A fleet as the texts of two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetTables {
    /// One line a cell.
    pub cells: String,
    /// One line a tenant.
    pub tenants: String,
}

impl FleetTables {
    /// Writes a fleet as tables. They carry no revision.
    #[must_use]
    pub fn write(document: &FleetDocument) -> Self {
        let cells = document.cells.iter().map(cell_fields);
        let tenants = document.tenants.iter().map(tenant_fields);
        Self { cells: write(&CELL_COLUMNS, cells), tenants: write(&TENANT_COLUMNS, tenants) }
    }

    /// Reads, checks and packs the tables.
    ///
    /// # Errors
    /// [`FleetError`] with the lines of everything that is wrong.
    pub fn build(&self, revision: Revision) -> Result<Fleet, FleetError> {
        Self::read(self.cells.as_bytes(), self.tenants.as_bytes(), revision)
    }

    /// Reads, checks and packs tables as they come: of a million tenants there is never a list of entries, nor all of their text.
    ///
    /// # Errors
    /// [`FleetError`] with the lines of everything that is wrong, and of the first that cannot be read.
    pub fn read(cells: impl Read, tenants: impl Read, revision: Revision) -> Result<Fleet, FleetError> {
        let mut problems = Problems::default();
        let mut entries = Vec::new();
        let mut keep = |place: Place, line: &mut Line<'_>| entries.push((place, cell_entry(line)));
        read(cells, &CELL_COLUMNS, Place::CellLine, &mut problems, &mut keep);
        let mut builder = FleetBuilder::new(revision, entries.iter().map(|(place, cell)| (*place, cell)));
        let mut pack = |place: Place, line: &mut Line<'_>| builder.tenant(place, &tenant_entry(line));
        read(tenants, &TENANT_COLUMNS, Place::TenantLine, &mut problems, &mut pack);
        problems.or(())?;
        builder.finish()
    }
}

// --- reading

/// One line, with its columns by name.
struct Line<'a> {
    columns: &'a [Option<usize>],
    names: &'a [&'static str],
    record: &'a StringRecord,
    place: Place,
    problems: &'a mut Problems,
}

impl Line<'_> {
    fn text(&self, column: &str) -> &str {
        let at = self.names.iter().position(|name| *name == column).and_then(|at| self.columns[at]);
        at.and_then(|at| self.record.get(at)).unwrap_or("").trim()
    }

    fn wrong(&mut self, column: &str, remedy: String) {
        let sentence = format!("column {column} is {:?}", self.text(column).chars().take(40).collect::<String>());
        self.problems.add(ProblemCode::FleetSyntax, self.place, sentence, remedy);
    }

    fn parsed<T: FromStr + Default>(&mut self, column: &str, what: &str) -> T {
        let text = self.text(column);
        if text.is_empty() {
            return T::default();
        }
        text.parse().unwrap_or_else(|_| {
            self.wrong(column, format!("give {what}"));
            T::default()
        })
    }

    fn one_of<T: Default + Copy>(&mut self, column: &str, all: &[(&str, T)]) -> T {
        let text = self.text(column);
        if text.is_empty() {
            return T::default();
        }
        if let Some((_, value)) = all.iter().find(|(name, _)| *name == text) {
            return *value;
        }
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        self.wrong(column, format!("give one of: {}", names.join(", ")));
        T::default()
    }

    fn hourly(&mut self, column: &str) -> Hourly {
        let parsed: Result<Vec<f64>, _> = self.text(column).split_whitespace().map(str::parse).collect();
        match parsed {
            Ok(values) if values.is_empty() => Hourly::default(),
            Ok(values) if values.len() == 1 => Hourly::Flat(values[0]),
            Ok(values) => Hourly::ByHour(values),
            Err(_) => {
                self.wrong(column, "give one number, or 24 with spaces between them".into());
                Hourly::default()
            }
        }
    }

    fn demand(&mut self, mean: &str, deviation: &str) -> ResourceDemand {
        ResourceDemand { mean: self.hourly(mean), deviation: self.hourly(deviation) }
    }
}

const STATES: [(&str, CellState); 3] =
    [("active", CellState::Active), ("cordoned", CellState::Cordoned), ("dead", CellState::Dead)];
const KINDS: [(&str, CellKind); 2] = [("pooled", CellKind::Pooled), ("dedicated", CellKind::Dedicated)];
const DATABASES: [(&str, Option<Databases>); 2] =
    [("shared", Some(Databases::Shared)), ("own", Some(Databases::Own))];
const TIERS: [(&str, Tier); 4] =
    [("bronze", Tier::Bronze), ("silver", Tier::Silver), ("gold", Tier::Gold), ("platinum", Tier::Platinum)];

fn name_of<T: PartialEq>(all: &[(&str, T)], value: &T) -> String {
    all.iter().find(|(_, of)| of == value).map(|(name, _)| (*name).to_owned()).unwrap_or_default()
}

fn cell_entry(line: &mut Line<'_>) -> CellEntry {
    CellEntry {
        id: line.text("id").into(),
        state: line.one_of("state", &STATES),
        kind: line.one_of("kind", &KINDS),
        region: line.text("region").into(),
        residency: line.text("residency").into(),
        domain: line.text("domain").into(),
        capacity: Amounts {
            cpu: line.parsed("cpu", "a number of cores"),
            connections: line.parsed("connections", "a number of connections"),
            storage: line.parsed("storage", "a number of gigabytes"),
        },
        reserve: line.parsed("reserve", "a share, such as 0.1"),
        databases: line.one_of("databases", &DATABASES),
    }
}

fn tenant_entry(line: &mut Line<'_>) -> TenantEntry {
    TenantEntry {
        id: line.text("id").into(),
        tier: line.one_of("tier", &TIERS),
        region: line.text("region").into(),
        residency: line.text("residency").into(),
        group: line.text("group").into(),
        spike_cluster: line.text("spike_cluster").into(),
        pin: line.text("pin").into(),
        cooldown_until: UnixMillis(line.parsed("cooldown_until", "milliseconds since 1970")),
        cell: line.text("cell").into(),
        moving_to: line.text("moving_to").into(),
        arrived_from: line.text("arrived_from").into(),
        demand: Demand {
            cpu: line.demand("cpu_mean", "cpu_deviation"),
            connections: line.demand("connections_mean", "connections_deviation"),
            storage: line.demand("storage_mean", "storage_deviation"),
        },
    }
}

fn read(
    table: impl Read,
    names: &[&'static str],
    place: impl Fn(usize) -> Place,
    problems: &mut Problems,
    take: &mut dyn FnMut(Place, &mut Line<'_>),
) {
    let mut reader = ReaderBuilder::new().trim(csv::Trim::All).from_reader(Tracked::new(table));
    let Some(columns) = columns(&mut reader, names, &place, problems) else { return };
    let mut record = StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let at = place(line_of(&reader, &record));
                let mut line = Line { columns: &columns, names, record: &record, place: at, problems };
                take(at, &mut line);
            }
            Err(error) if error.is_io_error() => {
                let at = place(reader.get_ref().lines());
                problems.add(ProblemCode::FleetSyntax, at, error.to_string(), "make the file readable, whole");
                return;
            }
            Err(error) => {
                let remedy = "give each line as many fields as there are columns; the file may have been cut short";
                let at = place(line_of(&reader, &StringRecord::new()));
                problems.add(ProblemCode::FleetSyntax, at, error_told(&error), remedy);
            }
        }
    }
    if !reader.get_ref().ends_in_a_line_break() {
        // A number that has lost its last digits is still a number.
        let sentence = "the last line does not end with a line break";
        let remedy = "the file may have been cut short: copy it again, whole, or end the line";
        problems.add(ProblemCode::FleetSyntax, place(reader.get_ref().lines()), sentence, remedy);
    }
}

/// The line at which a record begins that was just read. The reader's own word begins before any empty lines that it has passed
/// over, so it is counted back from where it is now; of a break of two bytes it has not yet read the second.
fn line_of<R: Read>(reader: &Reader<Tracked<R>>, record: &StringRecord) -> usize {
    let now = reader.position();
    let inside: usize = record.iter().map(|field| field.bytes().filter(|byte| *byte == b'\n').count()).sum();
    let ended = usize::from(reader.get_ref().byte_before(now.byte()) == Some(b'\n'));
    usize::try_from(now.line()).unwrap_or(usize::MAX).saturating_sub(inside + ended)
}

fn error_told(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("the line has {len} fields, there are {expected_len} columns")
        }
        _ => error.to_string(),
    }
}

/// Where each known column is; nothing where the head of the table is no use.
fn columns<R: Read>(
    reader: &mut Reader<R>,
    names: &[&'static str],
    place: &impl Fn(usize) -> Place,
    problems: &mut Problems,
) -> Option<Vec<Option<usize>>> {
    let head = match reader.headers() {
        Ok(head) => head,
        Err(error) => {
            problems.add(ProblemCode::FleetSyntax, place(1), error.to_string(), "begin with the names of columns");
            return None;
        }
    };
    let known = || format!("the columns are: {}", names.join(", "));
    for (at, name) in head.iter().enumerate() {
        if !names.contains(&name) {
            problems.add(ProblemCode::FleetSyntax, place(1), format!("column {name:?} is not known"), known());
        } else if head.iter().take(at).any(|before| before == name) {
            problems.add(ProblemCode::FleetSyntax, place(1), format!("column {name} is there twice"), known());
        }
    }
    let columns: Vec<_> = names.iter().map(|name| head.iter().position(|of| of == *name)).collect();
    if columns[0].is_none() {
        problems.add(ProblemCode::FleetSyntax, place(1), "there is no column id", known());
        return None;
    }
    Some(columns)
}

// --- writing

fn hourly_field(hourly: &Hourly) -> String {
    match hourly {
        Hourly::Flat(value) => value.to_string(),
        Hourly::ByHour(values) => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

fn cell_fields(cell: &CellEntry) -> Vec<String> {
    vec![
        cell.id.clone(),
        name_of(&STATES, &cell.state),
        name_of(&KINDS, &cell.kind),
        cell.region.clone(),
        cell.residency.clone(),
        cell.domain.clone(),
        cell.capacity.cpu.to_string(),
        cell.capacity.connections.to_string(),
        cell.capacity.storage.to_string(),
        cell.reserve.to_string(),
        name_of(&DATABASES, &cell.databases),
    ]
}

fn tenant_fields(tenant: &TenantEntry) -> Vec<String> {
    let demand = &tenant.demand;
    vec![
        tenant.id.clone(),
        name_of(&TIERS, &tenant.tier),
        tenant.region.clone(),
        tenant.residency.clone(),
        tenant.group.clone(),
        tenant.spike_cluster.clone(),
        tenant.pin.clone(),
        tenant.cooldown_until.0.to_string(),
        tenant.cell.clone(),
        tenant.moving_to.clone(),
        tenant.arrived_from.clone(),
        hourly_field(&demand.cpu.mean),
        hourly_field(&demand.cpu.deviation),
        hourly_field(&demand.connections.mean),
        hourly_field(&demand.connections.deviation),
        hourly_field(&demand.storage.mean),
        hourly_field(&demand.storage.deviation),
    ]
}

fn write(columns: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut writer = Writer::from_writer(Vec::new());
    writer.write_record(columns).expect("memory takes everything");
    for line in lines {
        writer.write_record(&line).expect("memory takes everything and each line has all columns");
    }
    let bytes = writer.into_inner().expect("memory takes everything");
    String::from_utf8(bytes).expect("made of texts")
}
