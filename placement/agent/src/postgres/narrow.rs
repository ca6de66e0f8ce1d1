//! From digests that differ to rows: each row belongs to one of so many buckets by its key, both cells add up the rows of each at
//! the same cut, and only the rows of buckets that differ are listed, each as its key and its hash.
//!
//! ```text
//! all rows ──► 4,096 sums, 24 bytes each ──► those that differ ──► keys and hashes ──► missing | extra | changed
//! ```
//! It reads as the verifier does, and shares its code. No value of a row leaves the cell that reads it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cell_model::{Difference, Differing, Digest, TenantId, Uid};
use cell_protos::v1 as wire;
use tokio_postgres::Client;

use super::backfill;
use super::captures::RowKey;
use super::catalogue::{Catalogue, Table};
use super::digest;
use super::fault::Fault;
use super::sql::ident;
use crate::digest::RowHash;

/// A power of two.
pub(crate) const BUCKETS: u32 = 4_096;
/// Rows of buckets that differ are listed up to about so many: beyond that the copy is past mending.
const LISTED_MAX: u64 = 200_000;
/// Keys that are remembered, to be copied anew,
pub(crate) const KEYS_MAX: usize = 10_000;
/// and bytes of them.
const KEYS_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What the rows of each bucket that has any add up to.
pub(crate) type Sums = BTreeMap<u32, Digest>;

/// A row as it is listed.
pub(crate) type Listed = (RowKey, u128);

fn odd() -> Fault {
    Fault::new("DATABASE_FAILED", "a row that COPY has sent has other columns than its table")
}

/// The columns of a row, each with its length in front.
fn fields(row: &[u8]) -> Option<Vec<&[u8]>> {
    let (count, mut rest) = row.split_first_chunk::<2>()?;
    let mut fields = Vec::new();
    for _ in 0..i16::from_be_bytes(*count) {
        let length = i32::from_be_bytes(*rest.first_chunk::<4>()?);
        // Minus one is NULL.
        let (field, behind) = rest.split_at_checked(4 + usize::try_from(length).unwrap_or(0))?;
        fields.push(field);
        rest = behind;
    }
    Some(fields)
}

/// Where the columns of a table's key are.
fn key_at(table: &Table) -> Vec<usize> {
    let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
    table.key.iter().filter_map(place).collect()
}

fn bucket(hash: &RowHash, table: &Table, key_at: &[usize], fields: &[&[u8]]) -> Result<u32, Fault> {
    let key: Option<Vec<&[u8]>> = key_at.iter().map(|at| fields.get(*at).copied()).collect();
    let hash = hash.of(table.name.as_bytes(), &key.ok_or_else(odd)?.concat());
    Ok(u32::try_from(hash % u128::from(BUCKETS)).expect("it is less than the number of buckets"))
}

/// Reads every row of a tenant, in a transaction whose every read is of one moment.
pub(crate) async fn sums(
    client: &Client,
    catalogue: &Catalogue,
    (tenant, uid): (&TenantId, Uid),
) -> Result<Sums, Fault> {
    let hash = RowHash::new(tenant, uid);
    let mut sums = Sums::new();
    for table in &catalogue.tables {
        let from = format!("{} WHERE {}", catalogue.qualified(table), catalogue.of_tenant(table, tenant.as_str()));
        let key_at = key_at(table);
        let each = |row: Bytes| {
            let number = bucket(&hash, table, &key_at, &fields(&row).ok_or_else(odd)?)?;
            let sum = sums.entry(number).or_default();
            *sum = hash.moved(*sum, table.name.as_bytes(), None, Some(&row));
            Ok(())
        };
        digest::each_row(client, table, &[], &from, each).await?;
    }
    Ok(sums)
}

/// A row that came with its key behind its columns.
#[derive(Debug, PartialEq, Eq)]
struct Parted<'a> {
    columns: Vec<&'a [u8]>,
    key: Vec<String>,
    /// The row as it would have come without the key.
    alone: Vec<u8>,
}

impl<'a> Parted<'a> {
    fn of(row: &'a [u8], count: usize) -> Option<Self> {
        let mut columns = fields(row)?;
        let key = if columns.len() < count { return None } else { columns.split_off(count) };
        let mut alone = i16::try_from(count).ok()?.to_be_bytes().to_vec();
        alone.extend(columns.concat());
        let text = |field: &&[u8]| String::from_utf8(field.get(4..)?.to_vec()).ok();
        let key = key.iter().map(text).collect::<Option<_>>()?;
        Some(Self { columns, key, alone })
    }
}

/// Each called otherwise than its column, by which rows are ordered.
fn key_as_text(table: &Table) -> Vec<String> {
    let as_text = |(place, name): (usize, &String)| format!("{}::text AS \"key {place}\"", ident(name));
    table.key.iter().enumerate().map(as_text).collect()
}

/// The rows of these buckets, read anew in the same transaction.
pub(crate) async fn list(
    client: &Client,
    catalogue: &Catalogue,
    (tenant, uid): (&TenantId, Uid),
    wanted: &BTreeSet<u32>,
) -> Result<Vec<Listed>, Fault> {
    let hash = RowHash::new(tenant, uid);
    let mut listed = Vec::new();
    for (number, table) in (0..).zip(&catalogue.tables) {
        let from = format!("{} WHERE {}", catalogue.qualified(table), catalogue.of_tenant(table, tenant.as_str()));
        let (key_at, columns) = (key_at(table), table.columns.len());
        let each = |row: Bytes| {
            let row = Parted::of(&row, columns).ok_or_else(odd)?;
            if wanted.contains(&bucket(&hash, table, &key_at, &row.columns)?) {
                listed.push(((number, row.key), hash.of(table.name.as_bytes(), &row.alone)));
            }
            Ok(())
        };
        digest::each_row(client, table, &key_as_text(table), &from, each).await?;
    }
    Ok(listed)
}

/// Where a sample lies: rows of a table behind a key, and up to one, or so many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) table: u32,
    /// Empty: from the first row on.
    pub(crate) after: Vec<String>,
    /// None: up to the last row.
    pub(crate) until: Option<Vec<String>>,
    pub(crate) rows: u32,
}

/// The rows of a stretch, in the order of their keys.
pub(crate) async fn list_stretch(
    client: &Client,
    catalogue: &Catalogue,
    (tenant, uid): (&TenantId, Uid),
    stretch: &Stretch,
) -> Result<Vec<Listed>, Fault> {
    let (hash, mut listed) = (RowHash::new(tenant, uid), Vec::new());
    let Some(table) = catalogue.table(stretch.table) else { return Ok(listed) };
    let fits = |key: &Vec<String>| key.is_empty() || key.len() == table.key.len();
    if !fits(&stretch.after) || !stretch.until.as_ref().is_none_or(fits) {
        return Err(odd());
    }
    let mut from = format!("{} WHERE {}", catalogue.qualified(table), catalogue.of_tenant(table, tenant.as_str()));
    let until = stretch.until.iter().map(|key| ("<=", key));
    for (operator, key) in until.chain([(">", &stretch.after)]).filter(|(_, key)| !key.is_empty()) {
        from = format!("{from} AND {}", backfill::compare(table, operator, key));
    }
    if !table.key.is_empty() {
        from = format!("{from} ORDER BY {}", table.key_list());
    }
    let (columns, number) = (table.columns.len(), stretch.table);
    let each = |row: Bytes| {
        let row = Parted::of(&row, columns).ok_or_else(odd)?;
        listed.push(((number, row.key), hash.of(table.name.as_bytes(), &row.alone)));
        Ok(())
    };
    let from = format!("{from} LIMIT {}", stretch.rows);
    digest::each_row(client, table, &key_as_text(table), &from, each).await?;
    Ok(listed)
}

/// Some key of a table, read from a few of its pages; none where they have none, as those of a small table may.
pub(crate) async fn some_key(
    client: &Client,
    catalogue: &Catalogue,
    tenant: &TenantId,
    (table, seed): (&Table, u64),
) -> Result<Vec<String>, Fault> {
    if table.key.is_empty() {
        return Ok(Vec::new());
    }
    let name = catalogue.qualified(table);
    let sql = format!(
        "SELECT {} FROM {name} TABLESAMPLE SYSTEM (1) REPEATABLE ({}) WHERE {} LIMIT 1",
        key_as_text(table).join(", "),
        seed % 1_000_000,
        catalogue.of_tenant(table, tenant.as_str()),
    );
    let row = client.query_opt(&sql, &[]).await?;
    Ok(row.map(|row| (0..row.len()).map(|at| row.get(at)).collect()).unwrap_or_default())
}

/// The buckets to be listed; and whether others differ, too.
pub(crate) fn differing(ours: &Sums, theirs: &Sums) -> (BTreeSet<u32>, bool) {
    let numbers: BTreeSet<u32> = ours.keys().chain(theirs.keys()).copied().collect();
    let differs = |number: &u32| ours.get(number) != theirs.get(number);
    let (mut chosen, mut rows) = (BTreeSet::new(), 0_u64);
    for number in numbers.into_iter().filter(differs) {
        if rows > LISTED_MAX {
            return (chosen, true);
        }
        let of = |sums: &Sums| sums.get(&number).map_or(0, |sum| sum.rows);
        rows = rows.saturating_add(of(ours).max(of(theirs)));
        chosen.insert(number);
    }
    (chosen, false)
}

/// The rows that differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Narrowed {
    pub(crate) missing: u64,
    pub(crate) extra: u64,
    pub(crate) changed: u64,
    /// The first of them, by table and key.
    pub(crate) keys: Vec<(RowKey, Differing)>,
}

/// `ours` are the copy's, `theirs` the owner's.
pub(crate) fn narrowed(ours: Vec<Listed>, theirs: Vec<Listed>) -> Narrowed {
    let mut ours: BTreeMap<RowKey, u128> = ours.into_iter().collect();
    let mut found = Vec::new();
    for (key, hash) in theirs {
        match ours.remove(&key) {
            None => found.push((key, Differing::Missing)),
            Some(own) if own != hash => found.push((key, Differing::Changed)),
            Some(_) => {}
        }
    }
    found.extend(ours.into_keys().map(|key| (key, Differing::Extra)));
    found.sort_unstable();
    let of = |wanted| found.iter().filter(|(_, differing)| *differing == wanted).count() as u64;
    let (missing, extra, changed) = (of(Differing::Missing), of(Differing::Extra), of(Differing::Changed));
    let mut bytes = 0;
    let fits = |((_, key), _): &(RowKey, Differing)| {
        bytes += key.iter().map(String::len).sum::<usize>();
        bytes <= KEYS_BYTES_MAX
    };
    let keys = found.into_iter().take(KEYS_MAX).take_while(fits).collect();
    Narrowed { missing, extra, changed, keys }
}

impl Narrowed {
    /// As the step is answered: the first rows by table and key.
    pub(crate) fn told(&self, catalogue: &Catalogue) -> Vec<wire::ExaminedRow> {
        let row = |((number, key), differing): &(RowKey, Differing)| wire::ExaminedRow {
            table: catalogue.table(*number).map(|table| table.name.clone()).unwrap_or_default(),
            key: format!("({})", key.join(", ")),
            differs: match differing {
                Differing::Missing => wire::RowDiffers::Missing,
                Differing::Extra => wire::RowDiffers::Extra,
                Differing::Changed => wire::RowDiffers::Changed,
            }
            .into(),
        };
        self.keys.iter().take(Difference::ROWS_MAX).map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums_of(of: &[(u32, u64, u128)]) -> Sums {
        of.iter().map(|(number, rows, sum)| (*number, Digest { rows: *rows, sum: *sum })).collect()
    }

    fn listed(of: &[(&str, u128)]) -> Vec<Listed> {
        of.iter().map(|(key, hash)| ((0, vec![(*key).to_owned()]), *hash)).collect()
    }

    #[test]
    fn buckets_that_differ_are_listed_and_no_more_rows_than_so_many() {
        let ours = sums_of(&[(1, 10, 1), (2, 10, 2), (4, 10, 4)]);
        let theirs = sums_of(&[(1, 10, 1), (2, 10, 3), (3, 1, 1)]);
        assert_eq!(differing(&ours, &theirs), ([2, 3, 4].into(), false));
        assert_eq!(differing(&ours, &ours), (BTreeSet::new(), false));
        let large = sums_of(&[(1, LISTED_MAX, 9), (2, LISTED_MAX, 9), (3, 1, 9)]);
        assert_eq!(differing(&large, &Sums::new()), ([1, 2].into(), true));
    }

    #[test]
    fn each_row_that_differs_is_named_with_its_kind() {
        let found = narrowed(listed(&[("a", 1), ("b", 2), ("d", 4)]), listed(&[("d", 5), ("a", 1), ("c", 3)]));
        assert_eq!((found.missing, found.extra, found.changed), (1, 1, 1));
        let told: Vec<_> = found.keys.iter().map(|((_, key), differing)| (key[0].as_str(), *differing)).collect();
        assert_eq!(told, [("b", Differing::Extra), ("c", Differing::Missing), ("d", Differing::Changed)]);
    }

    #[test]
    fn of_many_rows_all_are_counted_and_some_remembered() {
        let many =
            |count: usize| (0..count).map(|number| ((0, vec![format!("{number:09}")]), 1)).collect::<Vec<_>>();
        let found = narrowed(Vec::new(), many(KEYS_MAX + 5));
        assert_eq!((found.missing, found.keys.len()), (KEYS_MAX as u64 + 5, KEYS_MAX));
        let long = vec![((0, vec!["k".repeat(KEYS_BYTES_MAX)]), 1), ((0, vec!["l".into()]), 1)];
        assert_eq!(narrowed(Vec::new(), long).keys.len(), 1);
    }

    #[test]
    fn a_row_is_told_from_its_columns() {
        let row = b"\0\x02\0\0\0\x01a\xff\xff\xff\xff";
        assert_eq!(fields(row).unwrap(), [b"\0\0\0\x01a".as_slice(), b"\xff\xff\xff\xff"]);
        assert_eq!(fields(b"\0\x01\0\0\0\x05ab"), None, "it ends too early");
        assert_eq!(fields(b"\0"), None);
        let parted = Parted::of(b"\0\x02\0\0\0\x01a\0\0\0\x017", 1).unwrap();
        assert_eq!((parted.columns, parted.key), (vec![b"\0\0\0\x01a".as_slice()], vec!["7".to_owned()]));
        assert_eq!(parted.alone, b"\0\x01\0\0\0\x01a", "as it is hashed without its key");
        assert_eq!(Parted::of(row, 3), None, "it has fewer columns");
    }
}
