//! Files that are nobody else's business.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What is to be said where others than its owner may read or change a file.
pub(crate) fn check(path: &Path) -> io::Result<Result<(), String>> {
    Ok(match mode(path)? {
        mode if mode & 0o077 == 0 => Ok(()),
        mode => {
            let shown = path.display();
            Err(format!("{shown} may be read by others than its owner (mode {mode:o}): chmod 600 {shown}"))
        }
    })
}

/// Permission bits of a file.
pub(crate) fn mode(path: &Path) -> io::Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}
