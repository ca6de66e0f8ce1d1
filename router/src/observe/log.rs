//! The access log: a line of JSON for each request when its answer has ended, in a file. Requests never wait for it: where the disk is slower than
//! they come, lines are left out and counted.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Uri};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{CLIENT_LEFT, PATH_BYTES_MAX, Record, bounded};
use crate::body::Upload;
use crate::options::Options;

/// Lines that wait to be written.
const WAITING_MAX: usize = 8_192;
/// Lines that are written before the file is looked after.
const AT_ONCE: usize = 1_024;
/// How often the file is opened anew where it was renamed, or could not be written.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Takes lines to the log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    sender: Option<mpsc::Sender<Written>>,
    left_out: Counter,
    /// Paths with what comes after them.
    query: bool,
}

impl Log {
    /// A log that is written by what is returned with it. None: there is none.
    pub(crate) fn open(options: &Options, left_out: Counter) -> (Self, Option<Writer>) {
        let query = options.access_log_query;
        let Some(path) = options.access_log.clone() else { return (Self { sender: None, left_out, query }, None) };
        let (sender, lines) = mpsc::channel(WAITING_MAX);
        (Self { sender: Some(sender), left_out: left_out.clone(), query }, Some(Writer { path, lines, left_out }))
    }

    /// The path of a request, as far as it is to be written down.
    pub(crate) fn path_of(&self, target: &Uri) -> Option<Box<str>> {
        self.sender.as_ref()?;
        let with_query = target.path_and_query().filter(|_| self.query).map(PathAndQuery::as_str);
        let path = with_query.unwrap_or_else(|| target.path());
        let most = path.floor_char_boundary(PATH_BYTES_MAX + 1);
        Some(bounded(path[..most].to_owned(), PATH_BYTES_MAX).into())
    }

    /// A line that writes itself when it is dropped.
    pub(crate) fn line(&self, record: Arc<Record>, upload: Upload<Incoming>, began: Instant) -> Option<Box<Line>> {
        let sender = self.sender.clone()?;
        let left_out = self.left_out.clone();
        Some(Box::new(Line { sender, left_out, record, upload, began, answered_bytes: 0, ended: None }))
    }
}

/// How an answer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was handed over to its last byte.
    Whole,
    /// The cell's has broken off.
    Broken,
    /// The cell has sent nothing more of it for too long.
    Stalled,
    /// It would have gone on in a cell that its tenant has left.
    Moved,
}

/// The line of a request whose answer is on its way.
pub(crate) struct Line {
    sender: mpsc::Sender<Written>,
    left_out: Counter,
    record: Arc<Record>,
    upload: Upload<Incoming>,
    began: Instant,
    pub(crate) answered_bytes: u64,
    /// None: its client has left, or the router has stopped.
    pub(crate) ended: Option<Ended>,
}

impl Drop for Line {
    fn drop(&mut self) {
        // Of an answer to HEAD nobody asks for the body.
        let whole = self.record.method == Method::HEAD && self.record.status != CLIENT_LEFT;
        let ended = match self.ended {
            Some(Ended::Broken) => "cell_broke_off",
            Some(Ended::Stalled) => "cell_stalled",
            Some(Ended::Moved) => "moved",
            Some(Ended::Whole) => "whole",
            None if whole => "whole",
            None => "client_left",
        };
        let written = Written {
            record: Arc::clone(&self.record),
            received_bytes: self.upload.received(),
            answered_bytes: self.answered_bytes,
            ended,
            lasted: self.began.elapsed(),
        };
        if self.sender.try_send(written).is_err() {
            self.left_out.inc();
        }
    }
}

/// A line as it waits to be written.
struct Written {
    record: Arc<Record>,
    received_bytes: u64,
    answered_bytes: u64,
    ended: &'static str,
    lasted: Duration,
}

impl Written {
    fn to_json(&self) -> Value {
        let mut line = self.record.to_json();
        line["path"] = json!(self.record.path);
        line["received_bytes"] = json!(self.received_bytes);
        line["answered_bytes"] = json!(self.answered_bytes);
        line["ended"] = json!(self.ended);
        line["lasted_ms"] = json!(self.lasted.as_secs_f64() * 1_000.0);
        line
    }
}

/// Writes the log.
pub(crate) struct Writer {
    path: PathBuf,
    lines: mpsc::Receiver<Written>,
    left_out: Counter,
}

impl Writer {
    /// Writes until nobody is left who could log. A file that was renamed is opened anew.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(AT_ONCE);
        let mut open: Option<BufWriter<File>> = None;
        loop {
            let read = tokio::time::timeout(LOOK_INTERVAL, self.lines.recv_many(&mut batch, AT_ONCE)).await;
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
    lines: &[Written],
    busy: bool,
    left_out: &Counter,
) -> Option<BufWriter<File>> {
    let attempt = || -> std::io::Result<BufWriter<File>> {
        let mut file = match open {
            // While it is written to, once in a batch is often enough to look whether it is still there.
            Some(file) if busy || is_at(file.get_ref(), path) => file,
            _ => BufWriter::new(File::options().create(true).append(true).open(path)?),
        };
        for line in lines {
            serde_json::to_writer(&mut file, &line.to_json())?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
        Ok(file)
    };
    match attempt() {
        Ok(file) => Some(file).filter(|file| is_at(file.get_ref(), path)),
        Err(error) => {
            left_out.inc_by(lines.len() as u64);
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
