//! libFuzzer on the entries of `cell_router::fuzzing`, one at a time: `CELLWAY_FUZZ` names it, and the first directory on
//! the command line gets the corpus of the sources as seeds. `./run` does both.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use cell_router::fuzzing::{Target, targets};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("CELLWAY_FUZZ").unwrap_or_default();
    let known = targets();
    let names: Vec<_> = known.iter().map(|(name, ..)| *name).collect();
    let Some((_, target, seeds)) = known.into_iter().find(|(name, ..)| *name == wanted) else {
        eprintln!("CELLWAY_FUZZ names what is fuzzed, one of {}", names.join(", "));
        std::process::exit(2);
    };
    if let Some(corpus) = std::env::args_os().skip(1).map(PathBuf::from).find(|path| path.is_dir()) {
        for (number, seed) in seeds.iter().enumerate() {
            if let Err(error) = std::fs::write(corpus.join(format!("seed-{number:04}")), seed) {
                eprintln!("the seeds cannot be written to {}: {error}", corpus.display());
                std::process::exit(2);
            }
        }
    }
    target
});

libfuzzer_sys::fuzz_target!(
    init: {
        LazyLock::force(&TARGET);
    },
    |bytes: &[u8]| TARGET(bytes)
);
