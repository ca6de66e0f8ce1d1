//! Where a run keeps its nodes' data, and where its figures go.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use cell_figures::Figures;
use tempfile::TempDir;

/// What every part is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Ground {
    /// Write the figures here, as a list in JSON
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the nodes keep their data while they run [default: beside the figures, else where temporary files are]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// The program of a node of the control plane [default: `cell-control` beside this one]
    #[arg(long, global = true, value_name = "PROGRAM")]
    control: Option<PathBuf>,
}

impl Ground {
    /// A directory that goes with the value: on the disk that is measured.
    pub(crate) fn directory(&self) -> anyhow::Result<TempDir> {
        let beside = self.out.as_deref().and_then(Path::parent).filter(|parent| !parent.as_os_str().is_empty());
        let Some(parent) = self.data.as_deref().or(beside) else { return Ok(tempfile::tempdir()?) };
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        tempfile::tempdir_in(parent).with_context(|| format!("cannot write below {}", parent.display()))
    }

    /// The program of a node of the control plane.
    pub(crate) fn control(&self) -> anyhow::Result<PathBuf> {
        let beside = std::env::current_exe()?.with_file_name("cell-control");
        let control = self.control.clone().unwrap_or(beside);
        ensure!(control.exists(), "{} is not there: build it (-p cell-control)", control.display());
        Ok(control)
    }

    pub(crate) fn write(&self, figures: &Figures) -> anyhow::Result<()> {
        let Some(out) = &self.out else { return Ok(()) };
        figures.write(out).with_context(|| format!("cannot write {}", out.display()))
    }
}

/// Bytes that a directory takes on its disk. Files that go meanwhile do not count.
pub(crate) fn bytes_of(directory: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    /// In which the kernel counts, whatever the blocks of the file system.
    const BLOCK: u64 = 512;
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let found = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_of(&entry.path()),
            found => found.map(|metadata| metadata.blocks() * BLOCK),
        };
        bytes += match found {
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => 0,
            found => found?,
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_directory_are_those_on_the_disk_with_all_that_is_below() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("below")).unwrap();
        std::fs::write(directory.path().join("below/full"), vec![1; 100_000]).unwrap();
        // It says that it is large, and nothing of it is there.
        std::fs::File::create(directory.path().join("hollow")).unwrap().set_len(1 << 30).unwrap();
        let bytes = bytes_of(directory.path()).unwrap();
        assert!((100_000..1 << 20).contains(&bytes), "{bytes}");
    }
}
