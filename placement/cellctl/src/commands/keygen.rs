//! `keygen`: the key that the nodes of one cluster sign mappings with.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use cell_trust::SigningKey;

use crate::console;
use crate::failure::{Exit, Failure};

pub(super) fn run(out: &Path) -> Result<Exit, Failure> {
    let public = write_key(out).map_err(|error| {
        Failure::local("KEY_FILE", &error, "choose a file that does not exist yet, in a directory that you may write to")
    })?;
    console::data(&format!("{public}\n"));
    console::note("routers and cells are told this public key; give the file to every control node");
    Ok(Exit::Done)
}

/// Makes a key and writes it where only its owner reads it. Never overwrites one. Answers the public key, in hex.
pub(crate) fn write_key(out: &Path) -> anyhow::Result<String> {
    let key = SigningKey::generate();
    let hex: String = key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out);
    let mut file = opened.with_context(|| format!("cannot make {}", out.display()))?;
    file.write_all(format!("{hex}\n").as_bytes()).and_then(|()| file.sync_all()).context("cannot write the key")?;
    Ok(key.public().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_for_its_owner_only_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let public = write_key(&file).unwrap();
        assert_eq!(public.len(), 64);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let before = std::fs::read(&file).unwrap();
        assert!(write_key(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
}
