//! Mounts the host's directories where the host says. Called with every identity; what is mounted is left.
//!
//! A directory belongs to somebody on the host, so nothing in it is ever changed here, its owner least of all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
};
use shed_protocol::Mount;
use tokio::{process::Command, time::sleep};

use crate::{apart::apart, log};

/// The file system's name in the kernel.
const KIND: &str = "virtiofs";

/// How often a mount is tried, and the pause in between. A device may appear a moment after the agent (spec M).
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(300);

/// How long the file system may take for a step of it.
const ANSWER: Duration = Duration::from_secs(30);

/// Longest tag (virtio 1.2, 5.11.4).
const TAG_MAX: usize = 36;

/// Why a directory is not mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("{0:?} is no tag of a shared directory")]
    Tag(String),
    #[error("cannot make {path}: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("the kernel's mounts cannot be read: {0}")]
    Mounts(io::Error),
    #[error("this kernel knows no virtiofs")]
    NoDriver,
    #[error("cannot mount the host directory `{tag}` at {path}: {source}")]
    Mount { tag: String, path: PathBuf, source: io::Error },
}

/// Mounts every directory that is not mounted yet.
pub(crate) async fn apply(mounts: &[Mount]) -> Result<(), MountError> {
    for mount in mounts {
        apply_one(mount).await?;
    }
    Ok(())
}

async fn apply_one(wanted: &Mount) -> Result<(), MountError> {
    let tag = &wanted.tag;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if tag.is_empty() || tag.len() > TAG_MAX || !tag.bytes().all(is_plain) {
        return Err(MountError::Tag(tag.chars().take(TAG_MAX).collect()));
    }
    let target = Path::new(wanted.target.as_str());
    // The list first: whoever looks at a mount whose host has gone may wait for ever.
    let is_there = |path: &Path| match fs::read_to_string("/proc/self/mountinfo") {
        Ok(mounted) => Ok(is_mounted(&mounted, path, tag)),
        Err(error) => Err(MountError::Mounts(error)),
    };
    if is_there(target)? {
        return Ok(());
    }
    let make = |source| MountError::Make { path: target.to_owned(), source };
    let path = target.to_owned();
    let real = apart(ANSWER, move || fs::create_dir_all(&path).and_then(|()| fs::canonicalize(&path)), drop);
    // The kernel lists a mount by its real path.
    let real = real.await.map_err(io::Error::from).flatten().map_err(make)?;
    if real != target && is_there(&real)? {
        return Ok(());
    }
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID;
    flags.set(MountFlags::RDONLY, wanted.read_only);
    let mut tries = 1;
    loop {
        let (device, point) = (tag.clone(), real.clone());
        let tried = apart(ANSWER, move || mount(device.as_str(), &point, KIND, flags, None), drop).await;
        let failed = |source| MountError::Mount { tag: tag.clone(), path: target.to_owned(), source };
        match tried.map_err(|error| failed(error.into()))? {
            Ok(()) => {
                log::info(&format!("mounted the host directory `{tag}` at {}", target.display()));
                return Ok(());
            }
            Err(Errno::NODEV) => load_driver().await?,
            // No device of this tag, or not yet; or its host is not ready to answer.
            Err(errno) if tries < TRIES && may_pass(errno) => sleep(PAUSE).await,
            Err(errno) => return Err(failed(errno.into())),
        }
        tries += 1;
        if tries > TRIES * 2 {
            return Err(MountError::NoDriver);
        }
    }
}

/// Whether a mount may succeed a moment later. `INVAL` is what the driver says of a tag that it does not know
/// (fs/fuse/virtio_fs.c, `virtio_fs_get_tree`).
fn may_pass(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOTCONN | Errno::IO | Errno::AGAIN | Errno::BUSY | Errno::INTR)
}

/// Loads the driver where it is a module; in the kernel that Shed brings it is built in.
async fn load_driver() -> Result<(), MountError> {
    let known = || fs::read_to_string("/proc/filesystems").is_ok_and(|text| knows(&text));
    if known() {
        return Ok(());
    }
    let loaded = Command::new("modprobe").arg(KIND).stdin(Stdio::null()).stdout(Stdio::null()).status().await;
    if !loaded.is_ok_and(|status| status.success()) || !known() {
        return Err(MountError::NoDriver);
    }
    Ok(())
}

/// Whether the text of /proc/filesystems has virtiofs.
fn knows(filesystems: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().last() == Some(KIND))
}

/// Whether the text of /proc/self/mountinfo has this directory as the topmost mount of `target` (man 5
/// proc_pid_mountinfo: the mount point is the fifth field; type and source follow a lone hyphen).
fn is_mounted(mountinfo: &str, target: &Path, tag: &str) -> bool {
    let mut here = mountinfo.lines().rev().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        (Path::new(point) == target).then_some((after.next()?, after.next()?))
    });
    here.next() == Some((KIND, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a
30 22 0:31 / /workspace rw,nosuid,nodev,relatime shared:9 - virtiofs workspace rw
31 22 0:32 / /other rw - virtiofs data rw
32 31 0:33 / /other rw - tmpfs tmpfs rw
";

    #[test]
    fn only_the_topmost_mount_with_the_right_tag_counts() {
        let mounted = |target: &str, tag: &str| is_mounted(MOUNTS, Path::new(target), tag);
        assert!(mounted("/workspace", "workspace"));
        assert!(!mounted("/workspace", "data"));
        assert!(!mounted("/other", "data"));
        assert!(!mounted("/", "workspace") && !mounted("/work", "workspace"));
    }

    #[test]
    fn the_driver_is_looked_for_by_its_whole_name() {
        assert!(knows("nodev\tproc\nnodev\tvirtiofs\n\text4\n"));
        assert!(!knows("nodev\tfuse\n") && !knows("nodev\tvirtiofs2\n") && !knows(""));
    }

    #[tokio::test]
    async fn a_tag_that_could_mean_something_else_is_refused() {
        for tag in ["", "a,b", "../x", "1234567890123456789012345678901234567"] {
            let mount = Mount { tag: tag.to_owned(), target: "/no/such".parse().unwrap(), read_only: false };
            assert!(matches!(apply(&[mount]).await, Err(MountError::Tag(_))), "{tag}");
        }
    }
}
