//! How much room there is for tenants that come, and how much a tenant that goes takes.
//!
//! A server does not say what is free on its disk. Where the agent sees that disk it looks there; where it does not, somebody may have
//! said how much the databases may take together. Of both the smaller counts; of neither nothing is known, and nothing refused.

use std::path::Path;

use cell_protos::v1 as wire;
use tokio_postgres::Client;

use super::fault::Fault;
use super::options::DatabaseOptions;
use super::sql::literal;

/// What a row takes in a page beside its columns.
const ROW_HEAD: u64 = 28;
/// Indexes of a table that has next to no rows yet say nothing of those of one that is full: at most so many times the rows.
const INDEXES_MAX: u64 = 4;

/// Bytes that are free for whoever is not root.
pub(crate) fn free_at(directory: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What is free, where that is known.
pub(crate) async fn free(client: &Client, options: &DatabaseOptions) -> Result<Option<u64>, Fault> {
    let seen = match &options.data_directory {
        Some(directory) => Some(free_at(directory).map_err(|error| {
            let reason = format!("what is free in {} cannot be seen: {error}", directory.display());
            Fault::new("DATABASE_FAILED", reason)
        })?),
        None => None,
    };
    if options.disk_bytes_max == 0 {
        return Ok(seen);
    }
    // Of databases that the agent's role may not enter the size is not told.
    let sql = "SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database \
               WHERE has_database_privilege(oid, 'CONNECT')";
    let taken = client.query_one(sql, &[]).await?.get::<_, i64>(0).cast_unsigned();
    let left = options.disk_bytes_max.saturating_sub(taken);
    Ok(Some(seen.map_or(left, |seen| seen.min(left))))
}

/// The log of what is written takes up to so much before the server makes room in it.
pub(crate) async fn log_bytes_max(client: &Client) -> Result<u64, Fault> {
    let sql = "SELECT pg_size_bytes(current_setting('max_wal_size'))";
    Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0).cast_unsigned())
}

/// What rows of a table take of a disk, whose indexes take so much beside so much of it.
pub(crate) fn with_indexes((rows, bytes): (u64, u64), (table_bytes, index_bytes): (u64, u64)) -> u64 {
    let heap = bytes.saturating_add(rows.saturating_mul(ROW_HEAD));
    let of_indexes = u128::from(heap) * u128::from(index_bytes) / u128::from(table_bytes.max(1));
    let of_indexes = u64::try_from(of_indexes).unwrap_or(u64::MAX);
    heap.saturating_add(of_indexes.min(heap.saturating_mul(INDEXES_MAX)))
}

/// What a table takes, its large values and partitions with it, and its indexes.
pub(crate) async fn sizes(client: &Client, table: &str) -> Result<(u64, u64), Fault> {
    let name = literal(table);
    let sql = format!(
        "SELECT coalesce(sum(pg_table_size(part)), 0)::bigint, coalesce(sum(pg_indexes_size(part)), 0)::bigint FROM \
         (SELECT t.relid AS part FROM pg_partition_tree({name}::regclass) t WHERE t.isleaf \
          UNION SELECT {name}::regclass) parts"
    );
    let row = client.query_one(&sql, &[]).await?;
    Ok((row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned()))
}

/// The log that slow copies may have the source keep is more than its disk has room for.
pub(crate) fn log_budget(free: Option<u64>, wal_bytes_max: u64) -> Option<wire::Finding> {
    let free = free.filter(|free| *free < wal_bytes_max)?;
    let reason = format!(
        "a slow copy may have the source keep {wal_bytes_max} bytes of log, and {free} bytes are free there: say a smaller \
         wal_bytes_max, or make room"
    );
    Some(wire::Finding { code: "LOG_BUDGET".into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_count_as_they_do_in_the_table_and_no_more_than_so_many_times() {
        assert_eq!(with_indexes((0, 0), (8_192, 16_384)), 0);
        assert_eq!(with_indexes((10, 720), (1_000, 500)), 1_500);
        assert_eq!(with_indexes((10, 720), (0, 8_192)), 5_000, "nothing is there yet");
        assert_eq!(with_indexes((u64::MAX, u64::MAX), (1, u64::MAX)), u64::MAX);
    }

    #[test]
    fn a_budget_of_log_that_the_disk_has_no_room_for_is_noted() {
        assert_eq!(log_budget(None, 1_000), None);
        assert_eq!(log_budget(Some(1_000), 1_000), None);
        let found = log_budget(Some(999), 1_000).unwrap();
        assert_eq!(found.code, "LOG_BUDGET");
        assert!(found.reason.contains("1000 bytes of log") && found.reason.contains("999 bytes are free"));
    }

    #[test]
    fn what_is_free_is_seen_where_there_is_a_directory() {
        assert!(free_at(Path::new("/")).is_ok());
        assert!(free_at(Path::new("/nowhere/at/all")).is_err());
    }
}
