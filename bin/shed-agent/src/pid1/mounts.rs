//! The mounts that programs expect and that no init has made. What shed-init has mounted already is left.

use std::{fs, path::Path};

use rustix::{
    fs::{Mode, chmod},
    mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount},
};

use crate::log;

/// Where shed-init keeps what is its own.
const INITRAMFS: &str = "/run/initramfs";

/// The shed's disk below the overlay.
const OWN_DISK: &str = "/run/initramfs/disk";

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static std::ffi::CStr,
}

/// In this order: later ones lie inside earlier ones.
const MOUNTS: [Mount; 8] = [
    Mount::new("proc", "/proc", c""),
    Mount::new("sysfs", "/sys", c""),
    Mount::new("cgroup2", "/sys/fs/cgroup", c"nsdelegate"),
    Mount { flags: MountFlags::NOSUID, ..Mount::new("devtmpfs", "/dev", c"mode=0755") },
    Mount {
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        ..Mount::new("devpts", "/dev/pts", c"gid=5,mode=620,ptmxmode=666")
    },
    Mount { flags: DATA, ..Mount::new("tmpfs", "/dev/shm", c"mode=1777") },
    Mount { flags: DATA, ..Mount::new("tmpfs", "/run", c"mode=0755") },
    Mount { flags: DATA, ..Mount::new("tmpfs", "/tmp", c"mode=1777,size=50%") },
];

const DATA: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

impl Mount {
    const fn new(kind: &'static str, target: &'static str, options: &'static std::ffi::CStr) -> Self {
        Self { kind, target, flags: DATA.union(MountFlags::NOEXEC), options }
    }
}

/// Mounts what is missing. A failure is noted: commands that do without it still run.
pub(super) fn mount_missing() {
    for entry in &MOUNTS {
        // Read anew each time; before /proc is there nothing is known to be mounted.
        let mounted = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if is_mounted(&mounted, entry.target) {
            continue;
        }
        let made = fs::create_dir_all(entry.target).and_then(|()| {
            Ok(mount(entry.kind, entry.target, entry.kind, entry.flags, Some(entry.options))?)
        });
        if let Err(error) = made {
            log::error(&format!("cannot mount {}: {error}", entry.target));
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ] {
        if fs::symlink_metadata(link).is_err()
            && let Err(error) = std::os::unix::fs::symlink(target, link)
        {
            log::error(&format!("cannot make {link}: {error}"));
        }
    }
    open_fuse();
}

/// udev would let everybody open it.
fn open_fuse() {
    if Path::new("/dev/fuse").exists()
        && let Err(error) = chmod("/dev/fuse", Mode::from_raw_mode(0o666))
    {
        log::error(&format!("cannot open /dev/fuse to everybody: {error}"));
    }
}

/// Whether the text of /proc/mounts has something on `target`.
fn is_mounted(mounts: &str, target: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(target))
}

/// The mounted directories, innermost first, without the root and what shed-init keeps for itself.
fn mounted_below_root(mounts: &str) -> Vec<&str> {
    let kept = |path: &str| matches!(path, "/" | "/proc" | "/dev" | "/run") || path.starts_with(INITRAMFS);
    mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|path| !kept(path)).collect()
}

/// Unmounts what can be unmounted and makes the rest read-only, the shed's disk below the root last.
pub(super) fn settle() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for path in mounted_below_root(&mounts) {
        // What is busy stays; its data has been written out.
        let _busy = unmount(path, UnmountFlags::empty());
    }
    for path in ["/", OWN_DISK] {
        if let Err(error) = mount_remount(path, MountFlags::RDONLY, c"") {
            log::error(&format!("cannot make {path} read-only: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_target_itself_counts_as_mounted() {
        let mounts = "proc /proc proc rw 0 0\ntmpfs /run/lock tmpfs rw 0 0\n";
        assert!(is_mounted(mounts, "/proc"));
        assert!(!is_mounted(mounts, "/run") && !is_mounted(mounts, "proc") && !is_mounted("", "/"));
    }

    #[test]
    fn inner_mounts_are_settled_before_outer_ones_and_the_root_stays() {
        let mounts = "overlay / overlay rw\nproc /proc proc rw\ntmpfs /run tmpfs rw\n\
            /dev/vdb /run/initramfs/disk ext4 rw\n/dev/vdb /var/lib/docker ext4 rw\ntmpfs /tmp tmpfs rw\ntmpfs /tmp/x tmpfs rw\n";
        assert_eq!(mounted_below_root(mounts), ["/tmp/x", "/tmp", "/var/lib/docker"]);
    }

    #[test]
    fn outer_mounts_come_before_inner_ones() {
        for (at, entry) in MOUNTS.iter().enumerate() {
            for later in &MOUNTS[at + 1..] {
                assert!(!entry.target.starts_with(&format!("{}/", later.target)));
            }
        }
    }
}
