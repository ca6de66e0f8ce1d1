//! `keygen`: the key that the nodes of one cluster sign mappings with.

use std::path::Path;

use cell_control::key_file;

use crate::console;
use crate::failure::{Exit, Failure};

pub(super) fn run(out: &Path) -> Result<Exit, Failure> {
    let public = key_file::generate(out).map_err(|error| {
        let (code, hint) = (error.code(), error.hint());
        Failure::new(code, format!("{:#}", anyhow::Error::from(error)), hint)
    })?;
    console::data(&format!("{public}\n"));
    console::note("routers and cells are told this public key; give the file to every control node");
    Ok(Exit::Done)
}
