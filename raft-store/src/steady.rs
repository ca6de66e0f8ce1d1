//! A large file reaches the disk while it is written, a piece at a time.
//!
//! One sync behind a whole snapshot would hand the disk all of it at once, and every sync of the log, for which commands
//! wait, would come behind that in the disk's queue.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// What the disk is handed at once.
const PIECE_BYTES: usize = 1024 * 1024;
/// After a piece the disk is left to others for as long as the piece took, and no longer than this.
const REST_MAX: Duration = Duration::from_millis(20);

/// What can be made durable as far as it is written.
pub(crate) trait Durable: Write {
    fn sync(&self) -> io::Result<()>;
}

impl Durable for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Writes and syncs by turns, on a thread that may wait. What comes last is for the caller to sync.
#[derive(Debug)]
pub(crate) struct Steady<F> {
    file: F,
    unsynced: usize,
}

impl<F> Steady<F> {
    pub(crate) const fn new(file: F) -> Self {
        Self { file, unsynced: 0 }
    }

    pub(crate) const fn get_ref(&self) -> &F {
        &self.file
    }
}

impl<F: Durable> Write for Steady<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.unsynced;
        let written = self.file.write(&bytes[..bytes.len().min(room)])?;
        self.unsynced += written;
        if self.unsynced == PIECE_BYTES {
            let begun = Instant::now();
            self.file.sync()?;
            std::thread::sleep(begun.elapsed().min(REST_MAX));
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A file that says how much was not synced at the worst.
    #[derive(Default)]
    struct Watched {
        written: Vec<u8>,
        synced: Cell<usize>,
        syncs: Cell<usize>,
        waiting_max: usize,
        fails: bool,
    }

    impl Write for Watched {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // As a file may, it takes less than it is given.
            let taken = bytes.len().min(300_000);
            self.written.extend_from_slice(&bytes[..taken]);
            self.waiting_max = self.waiting_max.max(self.written.len() - self.synced.get());
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Durable for Watched {
        fn sync(&self) -> io::Result<()> {
            if self.fails {
                return Err(io::Error::other("the disk is gone"));
            }
            self.synced.set(self.written.len());
            self.syncs.set(self.syncs.get() + 1);
            Ok(())
        }
    }

    #[test]
    fn never_more_than_a_piece_waits_for_the_disk_and_everything_is_written_in_order() {
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES + 7).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for part in [1_000, 65_536, bytes.len()] {
            let mut steady = Steady::new(Watched::default());
            bytes.chunks(part).for_each(|part| steady.write_all(part).unwrap());
            let watched = steady.get_ref();
            assert!(watched.written == bytes, "by {part}");
            assert_eq!((watched.waiting_max, watched.syncs.get()), (PIECE_BYTES, 3), "by {part}");
            assert_eq!(watched.synced.get(), 3 * PIECE_BYTES, "the rest is the caller's");
        }
    }

    #[test]
    fn a_sync_that_fails_on_the_way_fails_the_writing() {
        let mut steady = Steady::new(Watched { fails: true, ..Watched::default() });
        steady.write_all(&vec![0; PIECE_BYTES - 1]).unwrap();
        assert_eq!(steady.write_all(&[0]).unwrap_err().to_string(), "the disk is gone");
    }
}
