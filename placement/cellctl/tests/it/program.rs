//! Runs the program and keeps what it says.

use std::path::Path;
use std::process::Command;

/// What a run of the program has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs `cellctl` with these words; words are separated by single spaces.
pub(crate) fn cellctl(words: &str) -> Said {
    run(Command::new(env!("CARGO_BIN_EXE_cellctl")).args(words.split(' ')))
}

/// The same with its temporary files there.
pub(crate) fn cellctl_in(temporary: &Path, words: &str) -> Said {
    run(Command::new(env!("CARGO_BIN_EXE_cellctl")).args(words.split(' ')).env("TMPDIR", temporary))
}

fn run(command: &mut Command) -> Said {
    let output = command
        .env_remove("CELLCTL_ENDPOINTS")
        .env_remove("CELLCTL_CONTEXT")
        .env_remove("CELLCTL_LOG")
        .env_remove("CELLCTL_CONFIG")
        .env_remove("CELLCTL_IDENTITY")
        .output()
        .unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cellctl"));
    command.args(["cluster", "status", "--endpoints", "127.0.0.1:9", "--timeout", "100ms", "--insecure-plaintext"]);
    let said = command.env("CELLCTL_CONFIG", "").env("CELLCTL_IDENTITY", "").output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("(NO_QUORUM_SEEN)"), "no file and no directory is looked for, but the node: {said}");
}

#[test]
fn a_fleet_on_a_port_in_use_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let said = cellctl(&format!("dev --cells 1 --listen {}", taken.local_addr().unwrap()));
    assert!(said.code == 1 && said.err.contains("(PORT_IN_USE)"), "{said:?}");
    assert!(said.err.matches("in use").count() <= 1, "once is enough: {said:?}");
}
