//! The verifier: what rows add up to at a cut, read and hashed by code of its own.
//!
//! It shares nothing with the copier but the database. Each row is hashed as the server sends it: the table's name,
//! then each column with its length, but for the one that says whose it is: that is in the hash's key, and cells of other
//! layouts have no such column. The sum does not depend on the order, so it is that of a set of rows.

use std::collections::BTreeMap;
use std::pin::pin;

use bytes::{Buf as _, Bytes, BytesMut};
use cell_model::{Digest, TenantId, Uid};
use futures::TryStreamExt as _;
use tokio_postgres::Client;

use super::captures::RowKey;
use super::catalogue::{Catalogue, Table};
use super::fault::Fault;
use super::sql::{ident, literal};
use crate::digest::RowHash;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// What rows add up to, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

/// All rows of a tenant. The caller has begun a transaction whose every read is of one moment.
pub(crate) async fn of_all(
    client: &Client,
    catalogue: &Catalogue,
    tenant: &TenantId,
    uid: Uid,
) -> Result<Sum, Fault> {
    let hash = RowHash::new(tenant, uid);
    let mut sum = Sum::default();
    for table in &catalogue.tables {
        let of = catalogue.of_tenant(table, tenant.as_str());
        let from = format!("{} WHERE {of}", catalogue.qualified(table));
        add(client, &hash, table, &from, &mut sum).await?;
    }
    Ok(sum)
}

/// The rows of a tenant that have one of these keys.
pub(crate) async fn of_keys(
    client: &Client,
    catalogue: &Catalogue,
    (tenant, uid): (&TenantId, Uid),
    keys: &[RowKey],
) -> Result<Sum, Fault> {
    let hash = RowHash::new(tenant, uid);
    let mut sum = Sum::default();
    let mut by_table: BTreeMap<u32, Vec<&Vec<String>>> = BTreeMap::new();
    for (table, key) in keys {
        by_table.entry(*table).or_default().push(key);
    }
    for (place, keys) in by_table {
        let Some(table) = catalogue.table(place) else { continue };
        let typed = |key: &&Vec<String>| {
            let value = |(name, text): (&String, &String)| format!("{}::{}", literal(text), table.type_of(name));
            format!("({})", table.key.iter().zip(key.iter()).map(value).collect::<Vec<_>>().join(", "))
        };
        let of = catalogue.of_tenant(table, tenant.as_str());
        if table.key.is_empty() {
            let from = format!("{} WHERE {of}", catalogue.qualified(table));
            add(client, &hash, table, &from, &mut sum).await?;
            continue;
        }
        let from = format!(
            "{} JOIN (VALUES {}) AS wanted ({list}) USING ({list}) WHERE {of}",
            catalogue.qualified(table),
            keys.iter().map(typed).collect::<Vec<_>>().join(", "),
            list = table.key_list(),
        );
        add(client, &hash, table, &from, &mut sum).await?;
    }
    Ok(sum)
}

async fn add(client: &Client, hash: &RowHash, table: &Table, from: &str, sum: &mut Sum) -> Result<(), Fault> {
    let each = |row: Bytes| {
        sum.digest = hash.moved(sum.digest, table.name.as_bytes(), None, Some(&row));
        sum.bytes += row.len() as u64;
        Ok(())
    };
    each_row(client, table, &[], from, each).await
}

/// Reads rows of a table, each as the server sends it: its columns, and behind them what `beside` selects.
pub(crate) async fn each_row(
    client: &Client,
    table: &Table,
    beside: &[String],
    from: &str,
    mut take: impl FnMut(Bytes) -> Result<(), Fault> + Send,
) -> Result<(), Fault> {
    let columns = table.columns.iter().map(|column| ident(&column.name));
    let columns: Vec<String> = columns.chain(beside.iter().cloned()).collect();
    let sql = format!("COPY (SELECT {} FROM {from}) TO STDOUT (FORMAT binary)", columns.join(", "));
    let mut stream = pin!(client.copy_out(&sql).await?);
    let mut rows = Rows::default();
    while let Some(data) = stream.try_next().await? {
        rows.buffer.extend_from_slice(&data);
        while let Some(row) = rows.next()? {
            take(row)?;
        }
    }
    Ok(())
}

/// Rows out of a binary COPY stream, each as its columns with their lengths.
#[derive(Default)]
struct Rows {
    buffer: BytesMut,
    begun: bool,
}

impl Rows {
    fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let odd = || Fault::new("DATABASE_FAILED", "what COPY has sent cannot be read");
        if !self.begun {
            if self.buffer.len() < SIGNATURE.len() + 8 {
                return Ok(None);
            }
            if !self.buffer.starts_with(SIGNATURE) {
                return Err(odd());
            }
            self.buffer.advance(SIGNATURE.len() + 8);
            self.begun = true;
        }
        let Some(fields) = self.buffer.first_chunk().copied().map(i16::from_be_bytes) else { return Ok(None) };
        let Ok(fields) = usize::try_from(fields) else { return Ok(None) };
        let mut at = 2;
        for _ in 0..fields {
            let Some(length) = self.buffer.get(at..at + 4) else { return Ok(None) };
            let length = i32::from_be_bytes(length.try_into().map_err(|_| odd())?);
            // Minus one is NULL.
            at += 4 + usize::try_from(length).unwrap_or(0);
        }
        if self.buffer.len() < at {
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(at).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_whole_however_the_stream_is_cut() {
        let mut stream = [SIGNATURE.as_slice(), &[0; 8]].concat();
        stream.extend(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff");
        stream.extend(b"\0\x02\0\0\0\0\0\0\0\x02bc");
        stream.extend(b"\xff\xff");
        for step in 1..stream.len() {
            let (mut rows, mut found) = (Rows::default(), Vec::new());
            for piece in stream.chunks(step) {
                rows.buffer.extend_from_slice(piece);
                while let Some(row) = rows.next().unwrap() {
                    found.push(row);
                }
            }
            assert_eq!(found.len(), 2, "in steps of {step}");
            assert!(found[0].ends_with(b"a\xff\xff\xff\xff") && found[1].ends_with(b"bc"));
        }
    }
}
