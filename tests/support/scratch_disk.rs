//! File systems of their own for a test: ext4 on a loop device, and a small one in memory.
//!
//! Invariant: dropping a disk unmounts it and gives the loop device back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::run;
use super::wait;

/// ext4 on a loop device over a file.
#[derive(Debug)]
pub(crate) struct LoopDisk {
    device: String,
    mount_point: PathBuf,
    mounted: bool,
}

impl LoopDisk {
    /// Makes and mounts a file system of this size below `directory`.
    ///
    /// # Errors
    /// When this machine has no loop devices or this process may not use them.
    pub(crate) fn create(directory: &Path, size_bytes: u64) -> Result<Self, String> {
        let image = directory.join("disk.img");
        let mount_point = directory.join("disk");
        fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        File::create(&image)
            .and_then(|file| file.set_len(size_bytes))
            .map_err(|error| error.to_string())?;
        let image = image.to_string_lossy();
        run("mkfs.ext4", &["-q", "-F", &image])?;
        let device = run("losetup", &["--find", "--show", &image])?;
        let mut disk = Self {
            device,
            mount_point,
            mounted: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// The loop device.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Mounts it, which repairs it from its own journal.
    pub(crate) fn mount(&mut self) -> Result<(), String> {
        run(
            "mount",
            &[&self.device, &self.mount_point.to_string_lossy()],
        )?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it; the last user of a file may need a moment to be gone.
    pub(crate) fn unmount(&mut self) -> Result<(), String> {
        if !self.mounted {
            return Ok(());
        }
        let target = self.mount_point.to_string_lossy().into_owned();
        let mut last = Ok(());
        wait::poll(Duration::from_secs(30), || {
            last = run("umount", &[&target]).map(drop);
            last.is_ok().then_some(())
        });
        self.mounted = last.is_err();
        last
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            drop(run("umount", &["-l", &self.mount_point.to_string_lossy()]));
        }
        drop(run("losetup", &["-d", &self.device]));
    }
}

/// A small file system in memory.
#[derive(Debug)]
pub(crate) struct MemoryDisk {
    mount_point: PathBuf,
}

impl MemoryDisk {
    /// Mounts a file system of this size below `directory`.
    ///
    /// # Errors
    /// When this process may not mount.
    pub(crate) fn create(directory: &Path, size_bytes: u64) -> Result<Self, String> {
        let mount_point = directory.join("disk");
        fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        let size = format!("size={size_bytes}");
        let target = mount_point.to_string_lossy().into_owned();
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &target])?;
        Ok(Self { mount_point })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Free bytes for a normal user.
    pub(crate) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mount_point).expect("a mounted disk has figures");
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        let target = self.mount_point.to_string_lossy().into_owned();
        let unmounted = wait::poll(Duration::from_secs(30), || run("umount", &[&target]).ok());
        if unmounted.is_none() {
            drop(run("umount", &["-l", &target]));
        }
    }
}
