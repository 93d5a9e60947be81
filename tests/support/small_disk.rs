//! Disks of a test's own, which get full, fail, or stand still: small file systems in files (`losetup`,
//! `mkfs.ext4`, `mount`) or in memory, which takes root. Where they cannot be had, the test says that it is skipped.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use tempfile::TempDir;

use super::programs::{Running, is_there};

/// Bytes.
pub const MIB: u64 = 1024 * 1024;

/// Of a disk whose syncs fail: what it seems to have, and what it has.
const SEEMING_BYTES: u64 = 256 * MIB;
const REAL_BYTES: u64 = 48 * MIB;

/// A file system of its own, unmounted when this is dropped.
pub struct SmallDisk {
    directory: TempDir,
    device: Option<String>,
    mounted: bool,
    /// What is below it, for longer than it.
    below: Option<Box<SmallDisk>>,
}

impl SmallDisk {
    /// ext4 of this size, in a file in a directory for temporary files.
    pub fn new(bytes: u64) -> Option<SmallDisk> {
        had(SmallDisk::ext4(&std::env::temp_dir(), bytes, &[], None))
    }

    /// Memory as a disk.
    pub fn in_memory(bytes: u64) -> Option<SmallDisk> {
        had(SmallDisk::tmpfs(bytes))
    }

    /// ext4 in a file on a smaller disk. When that is full this one takes writes, and fails to sync them.
    pub fn whose_syncs_can_fail() -> Option<SmallDisk> {
        had(SmallDisk::tmpfs(REAL_BYTES).and_then(|below| {
            let within = below.path();
            let options = ["-O", "^has_journal"];
            SmallDisk::ext4(&within, SEEMING_BYTES, &options, Some(Box::new(below)))
        }))
    }

    fn ext4(
        within: &Path,
        bytes: u64,
        options: &[&str],
        below: Option<Box<SmallDisk>>,
    ) -> Result<SmallDisk, String> {
        let mut disk = SmallDisk {
            directory: tempfile::tempdir_in(within).map_err(|error| error.to_string())?,
            device: None,
            mounted: false,
            below,
        };
        let image = disk.directory.path().join("image");
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image))?;
        let device = disk.device.insert(device.trim().to_owned()).clone();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).args(options).arg(&device))?;
        fs::create_dir(disk.path()).map_err(|error| error.to_string())?;
        run(Command::new("mount").arg(&device).arg(disk.path()))?;
        disk.mounted = true;
        Ok(disk)
    }

    fn tmpfs(bytes: u64) -> Result<SmallDisk, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut disk = SmallDisk { directory, device: None, mounted: false, below: None };
        fs::create_dir(disk.path()).map_err(|error| error.to_string())?;
        let size = format!("size={bytes}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(disk.path()))?;
        disk.mounted = true;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// Takes all of its room but so much.
    pub fn fill_up_to(&self, left_bytes: u64) {
        let file = File::options().append(true).create(true).open(self.path().join("filler"));
        let file = file.unwrap();
        loop {
            let disk = rustix::fs::statvfs(self.path()).unwrap();
            let free = disk.f_bavail * disk.f_frsize;
            let length = file.metadata().unwrap().len();
            let bytes = free.saturating_sub(left_bytes);
            if bytes == 0 {
                return;
            }
            match fallocate(&file, FallocateFlags::empty(), length, bytes) {
                Ok(()) => return,
                // Somebody else has taken some of it meanwhile.
                Err(Errno::NOSPC) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Takes all of its room, the last block too.
    pub fn fill(&self) {
        self.fill_up_to(MIB);
        let path = self.path().join("filler");
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        while let Ok(()) = file.write_all(&[0; 4096]) {}
    }

    /// Gives back what was taken.
    pub fn clear(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }

    /// From now on syncs fail.
    pub fn fail_syncs(&self) {
        self.below().fill();
    }

    /// Syncs work again.
    pub fn mend_syncs(&self) {
        self.below().clear();
    }

    fn below(&self) -> &SmallDisk {
        self.below.as_ref().expect("only a disk on another has syncs that can fail")
    }

    /// From now on writes fail.
    pub fn forbid_writing(&self) {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(self.path())).unwrap();
    }

    /// Has every write and sync wait for so long from now. It goes on by itself, whatever becomes of the
    /// test: who waits for a disk that stands still cannot even be killed.
    pub fn hold(&self, duration: Duration) -> Running {
        let script = r#"fsfreeze -f "$0" && { (sleep "$1"; fsfreeze -u "$0") & echo held; wait; }"#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(self.path()).arg(duration.as_secs_f64().to_string());
        let held = Running::start(command);
        assert_eq!(held.line(), "held");
        held
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = run(Command::new("umount").arg(self.path()));
        }
        if let Some(device) = &self.device {
            let _ = run(Command::new("losetup").arg("--detach").arg(device));
        }
    }
}

/// The disk, where it can be had.
fn had(disk: Result<SmallDisk, String>) -> Option<SmallDisk> {
    disk.map_err(|error| is_there(&format!("a small disk ({error})"), false)).ok()
}

/// What a program says on standard output.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
