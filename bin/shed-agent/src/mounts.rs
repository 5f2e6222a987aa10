//! Mounts the host's directories where the host says. Called with every identity; what is mounted is left.
//!
//! A directory belongs to somebody on the host, so nothing in it is ever changed here, its owner least of all.

use std::{
    ffi::CString,
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
};
use shed_protocol::{Mount, MountKind};
use tokio::{process::Command, time::sleep};

use crate::{
    apart::apart,
    log,
    share_streams::{ShareStreams, TAG_MAX, is_plain},
};

/// How often a mount is tried, and the pause in between. A device may appear a moment after the agent (spec M).
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(300);

/// How long the file system may take for a step of it.
const ANSWER: Duration = Duration::from_secs(30);

/// How long the host's stream for a directory is waited for.
const STREAM: Duration = Duration::from_secs(20);

/// Largest message of 9P in bytes: the most that the kernel's client and shed-server both take (net/9p/trans_fd.c).
const MSIZE: u32 = 1 << 20;

/// Why a directory is not mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("{0:?} is no tag of a shared directory")]
    Tag(String),
    #[error("cannot make {path}: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("the kernel's mounts cannot be read: {0}")]
    Mounts(io::Error),
    #[error("this kernel knows no {0}")]
    NoDriver(&'static str),
    #[error("the host did not offer the directory `{tag}` within {} s", STREAM.as_secs())]
    NoStream { tag: String },
    #[error("cannot mount the host directory `{tag}` at {path}: {source}")]
    Mount { tag: String, path: PathBuf, source: io::Error },
}

/// The file system's name in the kernel.
const fn name_of(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Virtiofs => "virtiofs",
        MountKind::NineP => "9p",
    }
}

/// Mounts every directory that is not mounted yet.
pub(crate) async fn apply(mounts: &[Mount], streams: &ShareStreams) -> Result<(), MountError> {
    for mount in mounts {
        apply_one(mount, streams).await?;
    }
    Ok(())
}

async fn apply_one(wanted: &Mount, streams: &ShareStreams) -> Result<(), MountError> {
    let tag = &wanted.tag;
    let kind = name_of(wanted.kind);
    if tag.is_empty() || tag.len() > TAG_MAX || !tag.bytes().all(is_plain) {
        return Err(MountError::Tag(tag.chars().take(TAG_MAX).collect()));
    }
    let target = Path::new(wanted.target.as_str());
    // The list first: whoever looks at a mount whose host has gone may wait for ever.
    let is_there = |path: &Path| match fs::read_to_string("/proc/self/mountinfo") {
        Ok(mounted) => Ok(is_mounted(&mounted, path, kind, tag)),
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
    let stream = match wanted.kind {
        MountKind::Virtiofs => None,
        MountKind::NineP => {
            let stream = streams.take(tag, STREAM).await;
            Some(Arc::new(stream.ok_or_else(|| MountError::NoStream { tag: tag.clone() })?))
        }
    };
    let options = stream.as_ref().map(|stream| options_of(stream.as_raw_fd()));
    let mut tries = 1;
    loop {
        let (device, point, options) = (tag.clone(), real.clone(), options.clone());
        // The number in the options is the stream's for as long as the kernel may look at it.
        let open = stream.clone();
        let mounting = move || {
            let _open = open;
            mount(device.as_str(), &point, kind, flags, options.as_deref())
        };
        let tried = apart(ANSWER, mounting, drop).await;
        let failed = |source| MountError::Mount { tag: tag.clone(), path: target.to_owned(), source };
        match tried.map_err(|error| failed(error.into()))? {
            Ok(()) => {
                log::info(&format!("mounted the host directory `{tag}` at {}", target.display()));
                return Ok(());
            }
            Err(Errno::NODEV) => load_driver(kind).await?,
            // A stream is good for one try.
            Err(errno) if stream.is_some() => return Err(failed(errno.into())),
            // No device of this tag, or not yet; or its host is not ready to answer.
            Err(errno) if tries < TRIES && may_pass(errno) => sleep(PAUSE).await,
            Err(errno) => return Err(failed(errno.into())),
        }
        tries += 1;
        if tries > TRIES * 2 {
            return Err(MountError::NoDriver(kind));
        }
    }
}

/// Returns the options of a mount by 9P over an open stream (Documentation/filesystems/9p.rst). `cache=mmap` lets files be
/// mapped for writing. Nothing else is kept, because the host gives files no versions: both sides see the same at once, as
/// with virtiofs.
fn options_of(fd: i32) -> CString {
    let options =
        format!("trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,msize={MSIZE},cache=mmap,access=client");
    CString::new(options).expect("words and numbers have no NUL")
}

/// Whether a mount may succeed a moment later. `INVAL` is what the driver says of a tag that it does not know
/// (fs/fuse/virtio_fs.c, `virtio_fs_get_tree`).
fn may_pass(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOTCONN | Errno::IO | Errno::AGAIN | Errno::BUSY | Errno::INTR)
}

/// Loads the driver where it is a module; in the kernel that Shed brings it is built in.
async fn load_driver(kind: &'static str) -> Result<(), MountError> {
    let known = || fs::read_to_string("/proc/filesystems").is_ok_and(|text| knows(&text, kind));
    if known() {
        return Ok(());
    }
    let loaded = Command::new("modprobe").arg(kind).stdin(Stdio::null()).stdout(Stdio::null()).status().await;
    if !loaded.is_ok_and(|status| status.success()) || !known() {
        return Err(MountError::NoDriver(kind));
    }
    Ok(())
}

/// Whether the text of /proc/filesystems has a file system.
fn knows(filesystems: &str, kind: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().last() == Some(kind))
}

/// Whether the text of /proc/self/mountinfo has this directory as the topmost mount of `target` (man 5
/// proc_pid_mountinfo: the mount point is the fifth field; type and source follow a lone hyphen).
fn is_mounted(mountinfo: &str, target: &Path, kind: &str, tag: &str) -> bool {
    let mut here = mountinfo.lines().rev().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        (Path::new(point) == target).then_some((after.next()?, after.next()?))
    });
    here.next() == Some((kind, tag))
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
        let mounted = |target: &str, tag: &str| is_mounted(MOUNTS, Path::new(target), "virtiofs", tag);
        assert!(mounted("/workspace", "workspace"));
        assert!(!mounted("/workspace", "data"));
        assert!(!mounted("/other", "data"));
        assert!(!mounted("/", "workspace") && !mounted("/work", "workspace"));
    }

    #[test]
    fn options_of_a_stream() {
        let options = "trans=fd,rfdno=7,wfdno=7,version=9p2000.L,msize=1048576,cache=mmap,access=client";
        assert_eq!(options_of(7).to_str(), Ok(options));
    }

    #[test]
    fn the_driver_is_looked_for_by_its_whole_name() {
        let virtiofs = |text: &str| knows(text, "virtiofs");
        assert!(virtiofs("nodev\tproc\nnodev\tvirtiofs\n\text4\n"));
        assert!(!virtiofs("nodev\tfuse\n") && !virtiofs("nodev\tvirtiofs2\n") && !virtiofs(""));
    }

    #[tokio::test]
    async fn a_tag_that_could_mean_something_else_is_refused() {
        for tag in ["", "a,b", "../x", "1234567890123456789012345678901234567"] {
            let mount = Mount {
                tag: tag.to_owned(),
                kind: MountKind::Virtiofs,
                target: "/no/such".parse().unwrap(),
                read_only: false,
            };
            let applied = apply(&[mount], &ShareStreams::default()).await;
            assert!(matches!(applied, Err(MountError::Tag(_))), "{tag}");
        }
    }
}
