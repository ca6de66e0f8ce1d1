//! Files that something was written out into to be kept: none of them is written over.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use crate::failure::Failure;

/// Writes a file that was not there, whole or not at all; or into what is no file, as a pipe.
pub(crate) fn keep(out: &Path, text: &str) -> Result<(), Failure> {
    let is_none = std::fs::metadata(out).is_ok_and(|found| !found.is_file());
    let opened = if is_none { File::options().write(true).open(out) } else { File::create_new(out) };
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes()).inspect_err(|_| {
            if !is_none {
                // What is there is not worth keeping, and would be in the way of another try.
                let _gone = std::fs::remove_file(out);
            }
        })
    });
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
