//! The table's file, from the router's side: loaded before it listens, written while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::snapshot::{self, SnapshotError};

/// Loads the table; whatever is wrong with the file, the router starts.
pub(super) fn load(path: &Path, directory: &Directory) {
    match snapshot::load(path, directory, SystemTime::now()) {
        Ok(None) => tracing::info!(path = %path.display(), "there is no table on file yet"),
        Ok(Some(loaded)) => tracing::info!(
            path = %path.display(), tenants = loaded.tenants, revision = %loaded.at.revision, age = ?loaded.age,
            "table loaded from its file"
        ),
        Err(SnapshotError::Io(error)) => {
            directory.forget();
            tracing::error!(code = "SNAPSHOT_UNREADABLE", path = %path.display(), %error, "cannot read the table's file: starting without");
        }
        Err(SnapshotError::Corrupt(reason)) => {
            directory.forget();
            let aside = snapshot::set_aside(path);
            tracing::error!(
                code = "SNAPSHOT_CORRUPT", path = %path.display(), reason, kept_as = ?aside,
                "the table's file cannot be understood: starting without, the control plane will give the table"
            );
        }
    }
}

/// Writes the table where it has changed, at most so often.
pub(super) async fn keep(
    path: PathBuf,
    directory: Arc<Directory>,
    metrics: Metrics,
    interval: Duration,
    on_file: u64,
) {
    let mut written = on_file;
    loop {
        tokio::time::sleep(interval).await;
        let changes = directory.changes();
        if changes != written && save(path.clone(), Arc::clone(&directory), &metrics).await {
            written = changes;
        }
    }
}

/// Writes the table. Whether that went well.
pub(super) async fn save(path: PathBuf, directory: Arc<Directory>, metrics: &Metrics) -> bool {
    let now = SystemTime::now();
    let shown = path.display().to_string();
    let written = tokio::task::spawn_blocking(move || snapshot::write(&path, &directory, now)).await;
    match written {
        Ok(Ok(())) => {
            let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            metrics.snapshot_written.set(i64::try_from(seconds).unwrap_or(i64::MAX));
            true
        }
        Ok(Err(error)) => {
            metrics.snapshot_failures.inc();
            tracing::error!(code = "SNAPSHOT_UNWRITABLE", path = shown, %error, "cannot write the table to its file");
            false
        }
        Err(error) => {
            metrics.snapshot_failures.inc();
            tracing::error!(code = "SNAPSHOT_UNWRITABLE", path = shown, %error, "writing the table has failed");
            false
        }
    }
}
