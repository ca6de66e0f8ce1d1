//! Disks, logs and snapshots, node by node.

use cell_client::wire;
use serde::Serialize;

use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::view::View;

/// The disk of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DiskView {
    endpoint: String,
    node: String,
    revision: u64,
    last_log_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    purged_index: u64,
    apply_stall_us: u64,
    snapshot_stall_us: u64,
    snapshots: u64,
    available_bytes: Option<u64>,
    full: bool,
    filesystem: String,
    device: String,
    sync: String,
    sync_us: u64,
    error: Option<String>,
}

impl DiskView {
    fn of(endpoint: &str, disk: wire::DiskStatusResponse) -> Self {
        let sync = match disk.honesty() {
            wire::SyncHonesty::Durable => "durable",
            wire::SyncHonesty::Volatile => "volatile",
            wire::SyncHonesty::Lying => "lying",
            wire::SyncHonesty::Unspecified => "unknown",
        };
        Self {
            endpoint: endpoint.to_owned(),
            node: format!("{:016x}", disk.node_id),
            revision: disk.revision,
            last_log_index: disk.last_log_index,
            applied_index: disk.applied_index,
            snapshot_index: disk.snapshot_index,
            purged_index: disk.purged_index,
            apply_stall_us: disk.apply_stall_us,
            snapshot_stall_us: disk.snapshot_stall_us,
            snapshots: disk.snapshots,
            // Where nothing is known of the disk, it is not full either.
            available_bytes: Some(disk.available_bytes).filter(|bytes| *bytes > 0 || disk.full),
            full: disk.full,
            filesystem: disk.filesystem,
            device: disk.device,
            sync: sync.into(),
            sync_us: disk.sync_us,
            error: None,
        }
    }

    fn silent(endpoint: &str, error: String) -> Self {
        Self { error: Some(error), ..Self::of(endpoint, wire::DiskStatusResponse::default()) }
    }
}

impl View for DiskView {
    const KIND: &'static str = "StoreDisk";
    const COLUMNS: &'static [&'static str] = &[
        "ENDPOINT",
        "NODE",
        "REVISION",
        "LOG",
        "APPLIED",
        "SNAPSHOT",
        "PURGED",
        "STALL",
        "IN SNAPSHOT",
        "FREE",
        "SYNC",
        "DEVICE",
    ];

    fn row(&self) -> Vec<String> {
        if self.error.is_some() {
            let mut row = vec!["-".to_owned(); Self::COLUMNS.len()];
            (row[0], row[1]) = (self.endpoint.clone(), "unreachable".into());
            return row;
        }
        let free = self.available_bytes.map_or_else(|| "?".into(), |bytes| format!("{} MiB", bytes >> 20));
        vec![
            self.endpoint.clone(),
            self.node.clone(),
            self.revision.to_string(),
            self.last_log_index.to_string(),
            self.applied_index.to_string(),
            self.snapshot_index.to_string(),
            self.purged_index.to_string(),
            stall(self.apply_stall_us),
            if self.snapshots == 0 { "-".into() } else { stall(self.snapshot_stall_us) },
            if self.full { format!("{free} FULL") } else { free },
            format!("{} {} us", self.sync, self.sync_us),
            format!("{} {}", self.filesystem, self.device).trim().to_owned(),
        ]
    }

    fn name(&self) -> String {
        format!("disk/{}", self.endpoint)
    }
}

/// In milliseconds: what stands still for less is nobody's concern.
fn stall(micros: u64) -> String {
    format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100)
}

pub(super) async fn status(control: &Control) -> Result<Exit, Failure> {
    let mut disks = Vec::new();
    for endpoint in control.client.endpoints() {
        disks.push(match control.client.disk_status(endpoint).await {
            Ok(disk) => DiskView::of(endpoint, disk),
            Err(error) => DiskView::silent(endpoint, error.to_string()),
        });
    }
    control.print_list(&disks);
    let silent = disks.iter().filter_map(|disk| Some(format!("{}: {}", disk.endpoint, disk.error.as_ref()?)));
    all_answer(&silent.collect::<Vec<_>>(), disks.len())
}

/// Every node is asked, whatever has become of the one before it.
pub(super) async fn snapshot(control: &Control, compact: bool) -> Result<Exit, Failure> {
    let mut failed = Vec::new();
    for endpoint in control.client.endpoints() {
        match control.client.take_snapshot(endpoint, compact).await {
            Ok(index) => {
                let done = if compact { "dropped its log up to" } else { "has a snapshot up to" };
                console::note(&format!("{endpoint} {done} entry {index}"));
            }
            Err(error) => failed.push(format!("{endpoint}: {error} ({})", error.code())),
        }
    }
    all_answer(&failed, control.client.endpoints().len())
}

fn all_answer(failed: &[String], nodes: usize) -> Result<Exit, Failure> {
    if failed.is_empty() {
        return Ok(Exit::Done);
    }
    let message =
        format!("{} of {nodes} nodes have not answered, or not done it\n  {}", failed.len(), failed.join("\n  "));
    let hint = "start the nodes that do not answer; the others need not be asked again";
    Err(Failure { exit: Exit::Unavailable, ..Failure::new("NODE_UNREACHABLE", message, hint) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_leaves_the_table_whole() {
        let row = DiskView::silent("127.0.0.1:1", "no connection, for a long and winding reason".into()).row();
        assert_eq!(row.len(), DiskView::COLUMNS.len());
        assert_eq!(row[..3], ["127.0.0.1:1", "unreachable", "-"]);
        let told = all_answer(&["127.0.0.1:1: no connection".to_owned()], 3).unwrap_err().to_string();
        assert!(told.contains("(NODE_UNREACHABLE)\n  127.0.0.1:1: no connection\n  next: start"), "{told}");
    }

    #[test]
    fn a_node_shows_how_long_applying_stood_still_and_how_long_beside_snapshots() {
        let mut disk = wire::DiskStatusResponse { apply_stall_us: 12_345, ..wire::DiskStatusResponse::default() };
        let row = |disk: &wire::DiskStatusResponse| {
            let row = DiskView::of("127.0.0.1:1", disk.clone()).row();
            let at = |name: &str| DiskView::COLUMNS.iter().position(|column| *column == name).unwrap();
            assert_eq!(row.len(), DiskView::COLUMNS.len());
            (row[at("STALL")].clone(), row[at("IN SNAPSHOT")].clone())
        };
        assert_eq!(row(&disk), ("12.3 ms".into(), "-".into()));
        (disk.snapshots, disk.snapshot_stall_us) = (1, 90);
        assert_eq!(row(&disk), ("12.3 ms".into(), "0.0 ms".into()));
    }

    #[test]
    fn a_disk_without_a_byte_is_told_from_one_of_which_nothing_is_known() {
        let free = |full| {
            let disk = wire::DiskStatusResponse { full, ..wire::DiskStatusResponse::default() };
            let at = DiskView::COLUMNS.iter().position(|column| *column == "FREE").unwrap();
            DiskView::of("127.0.0.1:1", disk).row()[at].clone()
        };
        assert_eq!([free(true), free(false)], ["0 MiB FULL", "?"]);
    }
}
