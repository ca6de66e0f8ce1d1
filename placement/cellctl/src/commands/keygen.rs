//! `keygen`: the key that the nodes of one cluster sign mappings with, or that a router signs contexts with.

use cell_control::key_file::Keygen;

use crate::console;
use crate::failure::{Exit, Failure};

pub(super) fn run(asked: &Keygen) -> Result<Exit, Failure> {
    let public = asked.run().map_err(|error| {
        let (code, hint) = (error.code(), error.hint());
        Failure::new(code, format!("{:#}", anyhow::Error::from(error)), hint)
    })?;
    console::data(&format!("{public}\n"));
    if asked.makes() {
        console::note(
            "this is the public half. For a control plane: give the file to every node, and tell routers and cells the public half \
             (`trusted-keys`)",
        );
        console::note(
            "for a router's signed context: name the file in its `context.key-file`, and tell gates the public half (`context-keys`)",
        );
    }
    Ok(Exit::Done)
}
