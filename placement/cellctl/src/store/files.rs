//! Backups as files: write, verify, restore.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use cell_store::Summary;

use crate::commands::Control;
use crate::console;
use crate::endpoints;
use crate::failure::{Exit, Failure};

/// Written under another name first: a file of the right name is whole.
pub(super) async fn backup(control: &Control, out: &Path) -> Result<Exit, Failure> {
    if out.exists() {
        let message = format!("{} exists", out.display());
        return Err(Failure::new("BACKUP_EXISTS", message, "name another file; a backup is never overwritten"));
    }
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write(control, &partial).await;
    let named = written.and_then(|written| {
        std::fs::rename(&partial, out).and_then(|()| sync_parent(out)).map_err(|error| unwritable(out, error))?;
        Ok(written)
    });
    let (summary, bytes, revision) = named.inspect_err(|_| {
        // It may not have been made.
        let _ = std::fs::remove_file(&partial);
    })?;
    console::data(&tell(&summary));
    console::note(&format!("{bytes} bytes as of revision {revision} are in {}", out.display()));
    Ok(Exit::Done)
}

fn unwritable(path: &Path, error: std::io::Error) -> Failure {
    let error = anyhow::Error::new(error).context(format!("cannot write {}", path.display()));
    Failure::local("BACKUP_UNWRITABLE", &error, "check the path, its rights and the room on its disk")
}

/// The name of the file is on the disk, too.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Answers also how many bytes it has, and as of which revision it is.
async fn write(control: &Control, partial: &Path) -> Result<(Summary, usize, u64), Failure> {
    let mut backup = control.client.backup().await?;
    let mut file = File::create(partial).map_err(|error| unwritable(partial, error))?;
    let mut bytes = 0;
    while let Some(chunk) = backup.chunk().await? {
        file.write_all(&chunk).map_err(|error| unwritable(partial, error))?;
        bytes += chunk.len();
    }
    file.sync_all().map_err(|error| unwritable(partial, error))?;
    // What arrived is read once as a restore would read it: a backup that cannot be restored is none.
    let summary = cell_store::verify_backup(partial).map_err(|error| failure(&error))?;
    Ok((summary, bytes, backup.revision()))
}

pub(super) async fn verify(path: &Path) -> Result<Exit, Failure> {
    let summary = if path.is_dir() {
        cell_store::verify_directory(path).await.map_err(|error| {
            let hint = error.hint();
            Failure::new(error.code(), format!("{:#}", anyhow::Error::new(error)), hint)
        })?
    } else {
        cell_store::verify_backup(path).map_err(|error| of_file(path, &error))?
    };
    console::data(&tell(&summary));
    console::note("every part has its checksum");
    if summary.log_ahead > 0 {
        console::note("the next start applies what is behind the state, as far as it is committed");
    }
    Ok(Exit::Done)
}

pub(super) async fn restore(
    from: &Path,
    data_dir: &Path,
    advertise: &str,
    lineage: Option<u64>,
) -> Result<Exit, Failure> {
    if !endpoints::is_host_port(advertise) || advertise.ends_with(":0") {
        let message = format!("--advertise: {advertise:?} is not host:port");
        return Err(Failure::usage(message, "say where the other nodes will reach this one, as in 10.0.0.1:7401"));
    }
    let lineage = lineage.map(cell_model::Lineage);
    let restored =
        cell_store::restore(from, data_dir, advertise, lineage).await.map_err(|error| of_file(from, &error))?;
    console::data(&format!(
        "cluster    {}\nlineage    {}\nrevision   {}\nnode       {:016x}\n",
        restored.cluster, restored.lineage, restored.revision, restored.node_id
    ));
    console::note(&format!(
        "next: cell-control serve --data-dir {} --advertise {advertise} …, `cellctl store members add` for each \
         further node, and `cellctl store reconcile` before anything is moved",
        data_dir.display()
    ));
    Ok(Exit::Done)
}

/// The same, with the name of the file where it is what is wrong with the file.
fn of_file(path: &Path, error: &cell_store::BackupError) -> Failure {
    let failure = failure(error);
    if !failure.code.starts_with("BACKUP_") {
        return failure;
    }
    Failure { message: format!("{}: {}", path.display(), failure.message), ..failure }
}

fn failure(error: &cell_store::BackupError) -> Failure {
    let (code, hint) = (error.code(), error.hint());
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    Failure::new(code, text, hint)
}

fn tell(summary: &Summary) -> String {
    let mut lines = vec![
        ("cluster", summary.cluster.to_string()),
        ("lineage", summary.lineage.to_string()),
        ("revision", summary.revision.to_string()),
        ("tenants", summary.tenants.to_string()),
        ("records", summary.records.to_string()),
        ("answers", summary.answers.to_string()),
    ];
    if summary.bytes > 0 {
        lines.push(("bytes", summary.bytes.to_string()));
    } else {
        let (entries, ahead) = (summary.log_entries, summary.log_ahead);
        lines.push(("log", format!("{entries} entries, {ahead} of them behind this state")));
    }
    lines.into_iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}
