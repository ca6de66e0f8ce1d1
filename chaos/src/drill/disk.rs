//! A disk of its own for one control node or cell: one that can be filled, or one whose power can be cut.
//!
//! ```text
//! Memory   a file system in memory, with little room
//! Image    ext4 in a file, mounted through a loop device
//!          power cut: the node is frozen ► the file is copied ► the node is killed ► the copy is mounted instead
//! ```
//!
//! What the kernel had not written when the file was copied is gone, as on a disk whose power went. Everything is in one
//! directory that carries the run's name, so that what a dead run leaves is found ([`super::leftovers`]).

use std::path::{Path, PathBuf};

use super::Disk;
use crate::wiring::spaces::{SpacesError, run};

/// See the module.
#[derive(Debug)]
pub(super) struct NodeDisk {
    pub(super) node: String,
    kind: Disk,
    /// Of the run.
    mark: String,
    directory: PathBuf,
    mounted: bool,
    /// How often its power was cut: the image has that number.
    cuts: u32,
}

impl NodeDisk {
    /// Makes and mounts it.
    ///
    /// # Errors
    /// Why there is none; nothing is left then.
    pub(super) async fn open(node: &str, kind: Disk, mark: &str) -> Result<Self, SpacesError> {
        let directory = std::env::temp_dir().join(format!("{mark}-{node}-disk"));
        let mut disk =
            Self { node: node.to_owned(), kind, mark: mark.to_owned(), directory, mounted: false, cuts: 0 };
        match disk.make().await {
            Ok(()) => Ok(disk),
            Err(error) => {
                disk.remove().await;
                Err(error)
            }
        }
    }

    async fn make(&mut self) -> Result<(), SpacesError> {
        let failed = |source| SpacesError::Run { command: format!("mkdir {}", self.mount().display()), source };
        std::fs::create_dir_all(self.mount()).map_err(failed)?;
        if let Disk::Image { megabytes } = self.kind {
            let image = self.image();
            let sized = std::fs::File::create(&image).and_then(|file| file.set_len(u64::from(megabytes) << 20));
            sized.map_err(|source| SpacesError::Run { command: format!("make {}", image.display()), source })?;
            run("mkfs.ext4", &["-q", "-F", &text(&image)], "").await?;
        }
        self.mount_it().await
    }

    async fn mount_it(&mut self) -> Result<(), SpacesError> {
        let at = text(&self.mount());
        match self.kind {
            Disk::Memory { megabytes } => {
                let size = format!("size={megabytes}m,mode=0700");
                run("mount", &["-t", "tmpfs", "-o", &size, &self.mark, &at], "").await?;
            }
            Disk::Image { .. } => {
                run("mount", &["-o", "loop", &text(&self.image()), &at], "").await?;
            }
        }
        self.mounted = true;
        Ok(())
    }

    fn mount(&self) -> PathBuf {
        self.directory.join("mnt")
    }

    fn image(&self) -> PathBuf {
        self.directory.join(format!("image-{}", self.cuts))
    }

    /// Where the node keeps its data.
    pub(super) fn data(&self) -> PathBuf {
        self.mount().join("data")
    }

    /// The file with which it is filled.
    pub(super) fn filler(&self) -> PathBuf {
        self.mount().join("filler")
    }

    /// Copies what is on the disk at this moment. The node must stand still.
    ///
    /// # Errors
    /// Where there is no room for a copy, or the disk is none whose power can be cut.
    pub(super) async fn copy(&self) -> std::io::Result<u64> {
        if !matches!(self.kind, Disk::Image { .. }) {
            return Err(std::io::Error::other("a disk in memory has no power to cut"));
        }
        let (from, to) = (self.image(), self.directory.join(format!("image-{}", self.cuts + 1)));
        tokio::task::spawn_blocking(move || std::fs::copy(from, to)).await.map_err(std::io::Error::other)?
    }

    /// Mounts the copy instead of the disk. Nobody may have anything open there any more.
    ///
    /// # Errors
    /// What `umount` or `mount` says.
    pub(super) async fn come_back(&mut self) -> Result<(), SpacesError> {
        run("umount", &[&text(&self.mount())], "").await?;
        self.mounted = false;
        let before = self.image();
        self.cuts += 1;
        if let Err(error) = std::fs::remove_file(&before) {
            tracing::warn!(%error, "the image before the power cut stays until the end");
        }
        self.mount_it().await
    }

    pub(super) async fn remove(mut self) {
        if self.mounted {
            match run("umount", &["-l", &text(&self.mount())], "").await {
                Ok(_) => self.mounted = false,
                Err(error) => tracing::warn!(%error, "a disk stays; `cellctl drill clean` removes it"),
            }
        }
    }
}

impl Drop for NodeDisk {
    fn drop(&mut self) {
        // Nobody is left to be told; `cellctl drill clean` finds what stays.
        if self.mounted {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.mount()).status();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
