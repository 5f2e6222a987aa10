//! Images that are not as the base image is, and sights into a guest's files from outside.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    process::{Command, Stdio},
};

use camino::Utf8Path;

/// Where programs that an image's owner calls an init may be; none of them is left in an image without one.
const INITS: [&str; 4] = ["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"];

/// Copies an image, sparse as it is, and removes its init from the copy.
///
/// # Panics
/// When cp or debugfs (of e2fsprogs) cannot do it.
pub fn image_without_init(base: &Utf8Path, copy: &Utf8Path) {
    let copied = Command::new("cp").arg("--sparse=always").arg(base).arg(copy).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {base} to {copy}");
    for init in INITS {
        // Most of them are links to others, and removing what is not there changes nothing.
        let removed = Command::new("debugfs")
            .args(["-w", "-R", &format!("rm {init}")])
            .arg(copy)
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(removed.is_ok_and(|status| status.success()), "debugfs cannot change {copy}");
    }
}

/// Overwrites the superblock and what follows it: a file system that no kernel mounts and no e2fsck trusts.
///
/// # Errors
/// When the file cannot be written.
pub fn damage_file_system(disk: &Utf8Path) -> io::Result<()> {
    File::options().write(true).open(disk)?.write_all_at(&[0xa5; 64 << 10], 0)
}

/// Reads the resident memory from the text of a `/proc/<pid>/status`, in bytes.
#[must_use]
pub fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }
}
