//! `cellctl`.

use std::process::ExitCode;

use cellctl::{Cli, Exit};
use clap::Parser;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // Where not even this can be printed, the exit code still says it.
            let _ = error.print();
            return if wrong { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    cellctl::run(cli).into()
}
