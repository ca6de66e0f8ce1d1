//! Files that something was written out into to be kept: none of them is written over.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use crate::failure::Failure;

/// Writes a file that was not there.
pub(crate) fn keep(out: &Path, text: &str) -> Result<(), Failure> {
    let written = File::create_new(out).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let message =
                format!("{} is there already, and may be all that is left of what is in it", out.display());
            Failure::new("EXPORT_EXISTS", message, "choose another --out, or move that file away")
        }
        _ => {
            let message = format!("cannot write {}: {error}", out.display());
            Failure::new("EXPORT_UNWRITABLE", message, "choose another --out")
        }
    })
}
