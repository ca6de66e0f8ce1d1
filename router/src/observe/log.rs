//! The access log: a line of JSON for each request, in a file. Requests never wait for it: where the disk is slower than
//! they come, lines are left out and counted.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::Record;

/// Records that wait to be written.
const WAITING_MAX: usize = 8_192;
/// Lines that are written before the file is looked after.
const AT_ONCE: usize = 1_024;
/// How often the file is opened anew where it was renamed, or could not be written.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Takes records to the log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    sender: Option<mpsc::Sender<Arc<Record>>>,
    left_out: Counter,
}

impl Log {
    /// A log that is written by what is returned with it. None: there is none.
    pub(crate) fn open(path: Option<PathBuf>, left_out: Counter) -> (Self, Option<Writer>) {
        let Some(path) = path else { return (Self { sender: None, left_out }, None) };
        let (sender, records) = mpsc::channel(WAITING_MAX);
        (Self { sender: Some(sender), left_out: left_out.clone() }, Some(Writer { path, records, left_out }))
    }

    pub(crate) fn write(&self, record: &Arc<Record>) {
        if let Some(sender) = &self.sender
            && sender.try_send(Arc::clone(record)).is_err()
        {
            self.left_out.inc();
        }
    }
}

/// Writes the log.
pub(crate) struct Writer {
    path: PathBuf,
    records: mpsc::Receiver<Arc<Record>>,
    left_out: Counter,
}

impl Writer {
    /// Writes until nobody is left who could log. A file that was renamed is opened anew.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(AT_ONCE);
        let mut open: Option<BufWriter<File>> = None;
        loop {
            let read = tokio::time::timeout(LOOK_INTERVAL, self.records.recv_many(&mut batch, AT_ONCE)).await;
            if read == Ok(0) {
                return;
            }
            let (path, lines, left_out) = (self.path.clone(), std::mem::take(&mut batch), self.left_out.clone());
            let (held, was_open) = (open.take(), read.is_ok());
            let writing = tokio::task::spawn_blocking(move || write(&path, held, &lines, was_open, &left_out));
            open = writing.await.unwrap_or_default();
        }
    }
}

/// Writes lines, and answers the file where it is still good.
fn write(
    path: &Path,
    open: Option<BufWriter<File>>,
    records: &[Arc<Record>],
    busy: bool,
    left_out: &Counter,
) -> Option<BufWriter<File>> {
    let attempt = || -> std::io::Result<BufWriter<File>> {
        let mut file = match open {
            // While it is written to, once in a batch is often enough to look whether it is still there.
            Some(file) if busy || is_at(file.get_ref(), path) => file,
            _ => BufWriter::new(File::options().create(true).append(true).open(path)?),
        };
        for record in records {
            serde_json::to_writer(&mut file, &record.to_json())?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
        Ok(file)
    };
    match attempt() {
        Ok(file) => Some(file).filter(|file| is_at(file.get_ref(), path)),
        Err(error) => {
            left_out.inc_by(records.len() as u64);
            tracing::error!(code = "ACCESS_LOG_UNWRITABLE", path = %path.display(), %error, "requests are not logged");
            None
        }
    }
}

/// Whether the file is still the one at its path.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same =
        |here: std::fs::Metadata, there: std::fs::Metadata| (here.dev(), here.ino()) == (there.dev(), there.ino());
    file.metadata().ok().zip(std::fs::metadata(path).ok()).is_some_and(|(here, there)| same(here, there))
}
