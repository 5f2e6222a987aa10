//! Runs `mke2fs` to make the empty file systems of upper disks inside plain files.
//!
//! Called by the store; images are written by [`crate::convert`]. Every file made here is new: an
//! existing one is never overwritten, and a failed run leaves none. The host's mke2fs.conf is ignored, so that the same
//! input gives the same file system on every machine.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::{
    fs::File,
    io,
    process::{Command, ExitStatus, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::DiskGb;

#[cfg(target_os = "linux")]
use self::linux::MORE_PLACES;
#[cfg(target_os = "macos")]
use self::macos::MORE_PLACES;
use super::clone::{CloneError, clone_sparse};

/// The label of every upper disk, by which shed-init can tell it from an image.
pub const UPPER_LABEL: &str = "shed-upper";

/// How much of a tool's complaint is kept, in bytes from its end.
const MAX_STDERR: usize = 4096;

/// Says why a disk was not made. There is no file at the target then, unless it was there before.
#[derive(Debug, thiserror::Error)]
pub enum BuildDiskError {
    #[error("mke2fs is not installed; it is in the package e2fsprogs")]
    NoMke2fs,
    #[error("cannot run {tool}")]
    Run {
        tool: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{tool} failed on {path} ({status}): {stderr}")]
    Failed { tool: Utf8PathBuf, path: Utf8PathBuf, status: ExitStatus, stderr: String },
    #[error("cannot create {path}")]
    Create {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot put the finished disk in place")]
    Place {
        #[source]
        source: CloneError,
    },
    #[error("{path} cannot be flushed to the disk")]
    Flush {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The `mke2fs` of this machine.
#[derive(Debug, Clone)]
pub struct Mke2fs {
    path: Utf8PathBuf,
}

impl Mke2fs {
    /// Finds mke2fs in PATH or where systems keep it.
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self, BuildDiskError> {
        let path = std::env::var("PATH").unwrap_or_default();
        let tool = path
            .split(':')
            .filter(|dir| dir.starts_with('/'))
            .chain(MORE_PLACES.iter().copied())
            .map(|dir| Utf8Path::new(dir).join("mke2fs"))
            .find(|tool| tool.is_file())
            .ok_or(BuildDiskError::NoMke2fs)?;
        Ok(Self { path: tool })
    }

    /// Makes a new sparse file of `bytes` at `out` with a file system as `arguments` say.
    fn run(&self, out: &Utf8Path, bytes: u64, arguments: &[&str]) -> Result<(), BuildDiskError> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(out)
            .map_err(|source| BuildDiskError::Create { path: out.to_owned(), source })?;
        let result = file
            .set_len(bytes)
            .map_err(|source| BuildDiskError::Create { path: out.to_owned(), source })
            .and_then(|()| self.format(out, arguments))
            .and_then(|()| {
                file.sync_all().map_err(|source| BuildDiskError::Flush { path: out.to_owned(), source })
            });
        if result.is_err() {
            // The error that brought us here is the one to report.
            let _ignored: io::Result<()> = std::fs::remove_file(out);
        }
        result
    }

    fn format(&self, out: &Utf8Path, arguments: &[&str]) -> Result<(), BuildDiskError> {
        let output = Command::new(&self.path)
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0"])
            .args(arguments)
            .arg(out)
            // A file that does not exist makes mke2fs use the defaults compiled into it.
            .env("MKE2FS_CONFIG", "/nonexistent/mke2fs.conf")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| BuildDiskError::Run { tool: self.path.clone(), source })?;
        if output.status.success() {
            return Ok(());
        }
        Err(BuildDiskError::Failed {
            tool: self.path.clone(),
            path: out.to_owned(),
            status: output.status,
            stderr: tail(&output.stderr),
        })
    }
}

/// Makes the empty disk `out` of `size`: a few MB on the host, whatever its size, and with nothing left for the guest to
/// prepare.
///
/// Inode tables and journal count as zeroed, so no guest kernel writes zeros to them in the background, which would make
/// the host's file grow by 2 % of the disk's size.
///
/// # Errors
/// When mke2fs fails, the disk is full, or `out` exists.
pub fn format_upper(mke2fs: &Mke2fs, size: DiskGb, out: &Utf8Path) -> Result<(), BuildDiskError> {
    // mke2fs zeroes by allocating unwritten blocks; a sparse copy leaves those out again.
    let rough = sibling(out, "formatting");
    let bytes = u64::from(size.get()) << 30;
    let arguments = ["-L", UPPER_LABEL, "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    mke2fs.run(&rough, bytes, &arguments)?;
    let placed = clone_sparse(&rough, out).map_err(|source| BuildDiskError::Place { source });
    let removed = std::fs::remove_file(&rough);
    placed?;
    removed.map_err(|source| BuildDiskError::Create { path: rough, source })
}

/// A name beside `path` that no other process uses.
fn sibling(path: &Utf8Path, purpose: &str) -> Utf8PathBuf {
    let name = path.file_name().unwrap_or("disk");
    path.with_file_name(format!(".{name}.{purpose}.{}", std::process::id()))
}

fn tail(stderr: &[u8]) -> String {
    let from = stderr.len().saturating_sub(MAX_STDERR);
    let text = String::from_utf8_lossy(&stderr[from..]).trim().to_owned();
    if text.is_empty() { "it gave no reason".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    /// Runs a tool which comes with mke2fs and returns what it says.
    fn e2fs(mke2fs: &Mke2fs, tool: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(mke2fs.path.with_file_name(tool)).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    #[test]
    fn what_mke2fs_says_is_in_the_error_and_nothing_is_left() {
        let (_guard, dir) = temporary();
        let out = dir.join("upper.ext4");
        let result = Mke2fs::find().unwrap().run(&out, 1 << 20, &["-U", "no-uuid"]);
        let Err(BuildDiskError::Failed { stderr, .. }) = result else { panic!("{result:?}") };
        assert!(stderr.contains("no-uuid"), "{stderr}");
        assert!(!out.exists());
    }

    #[test]
    fn an_existing_disk_is_not_formatted() {
        let (_guard, dir) = temporary();
        let out = dir.join("upper.ext4");
        std::fs::write(&out, b"precious").unwrap();
        let result = format_upper(&Mke2fs::find().unwrap(), DiskGb::try_from(1).unwrap(), &out);
        assert!(matches!(result, Err(BuildDiskError::Place { .. })), "{result:?}");
        assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    }

    #[test]
    fn an_upper_is_small_sound_and_has_nothing_left_to_zero() {
        use std::os::unix::fs::MetadataExt as _;
        let (_guard, dir) = temporary();
        let mke2fs = Mke2fs::find().unwrap();
        let out = dir.join("upper.ext4");
        format_upper(&mke2fs, DiskGb::try_from(20).unwrap(), &out).unwrap();
        let metadata = std::fs::metadata(&out).unwrap();
        assert_eq!(metadata.len(), 20 << 30);
        assert!(metadata.blocks() * 512 < 10_000_000, "{} bytes", metadata.blocks() * 512);
        let (clean, report) = e2fs(&mke2fs, "e2fsck", &["-fn", out.as_str()]);
        assert!(clean, "{report}");
        let (_, groups) = e2fs(&mke2fs, "dumpe2fs", &[out.as_str()]);
        assert!(groups.contains(UPPER_LABEL) && groups.contains("has_journal"));
        assert_eq!(groups.matches("(Blocks ").count(), groups.matches("ITABLE_ZEROED").count());
    }
}
