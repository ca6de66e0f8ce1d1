//! `cellctl`.

use std::io::Write as _;
use std::process::ExitCode;

use cellctl::{Exit, usage};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let cli = match usage::read(&words) {
        Ok(cli) => cli,
        Err(error) => {
            if let Some(failure) = usage::explained(&error) {
                let exit = failure.exit;
                // As below.
                let _ = writeln!(std::io::stderr(), "{failure}");
                return exit.into();
            }
            let wrong = error.use_stderr();
            // Where not even this can be printed, the exit code still says it.
            let _ = error.print();
            return if wrong { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    cellctl::run(cli).into()
}
