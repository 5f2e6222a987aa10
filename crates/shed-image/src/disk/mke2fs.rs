//! Runs `mke2fs` to make file systems inside plain files.
//!
//! Called by the guest builder for images and by the store for the empty upper disks. Every file made here is new: an
//! existing one is never overwritten, and a failed run leaves none. The host's mke2fs.conf is ignored, so that the same
//! input gives the same file system on every machine.

use std::{
    fs::File,
    io,
    process::{Command, ExitStatus, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::DiskGb;

use super::{
    clone::{CloneError, clone_sparse},
    tar_size,
};

/// The label of every upper disk, by which shed-init can tell it from an image.
pub const UPPER_LABEL: &str = "shed-upper";

/// The first version whose `-d` takes a tar archive (e2fsprogs release notes, 1.47.1).
const FIRST_WITH_TAR: (u32, u32, u32) = (1, 47, 1);

/// Where mke2fs lies when PATH lacks the system directories, as it does for ordinary users on Debian, and for Homebrew.
const MORE_PLACES: [&str; 5] = [
    "/usr/sbin",
    "/sbin",
    "/usr/local/sbin",
    "/opt/homebrew/opt/e2fsprogs/sbin",
    "/usr/local/opt/e2fsprogs/sbin",
];

/// How much of a tool's complaint is kept, in bytes from its end.
const MAX_STDERR: usize = 4096;

const MIB: u64 = 1 << 20;

/// Says why a disk was not made. There is no file at the target then, unless it was there before.
#[derive(Debug, thiserror::Error)]
pub enum BuildDiskError {
    #[error("mke2fs is not installed; it is in the package e2fsprogs")]
    NoMke2fs,
    #[error("cannot tell the version of {tool} from its answer {answer:?}")]
    UnknownVersion { tool: Utf8PathBuf, answer: String },
    #[error("cannot run {tool}")]
    Run {
        tool: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{tool} failed on {path} ({status}): {stderr}")]
    Failed { tool: Utf8PathBuf, path: Utf8PathBuf, status: ExitStatus, stderr: String },
    #[error("cannot read {path} as a tar archive")]
    ReadTar {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
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

/// How `-d` takes the content of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TarInput {
    Direct,
    /// mke2fs is too old for tar: unpack first, with fakeroot keeping the owners for an ordinary user.
    ThroughDirectory,
}

/// The `mke2fs` of this machine.
#[derive(Debug, Clone)]
pub struct Mke2fs {
    path: Utf8PathBuf,
    tar_input: TarInput,
}

/// What a new image's file system is called.
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    /// Volume label; ext4 keeps the first 16 bytes.
    pub label: Option<String>,
    /// The file system's UUID, also the seed of its directory hashes; random when absent.
    pub uuid: Option<String>,
}

impl Mke2fs {
    /// Finds mke2fs in PATH or where systems keep it, and asks for its version.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn find() -> Result<Self, BuildDiskError> {
        let path = std::env::var("PATH").unwrap_or_default();
        let tool = path
            .split(':')
            .filter(|dir| dir.starts_with('/'))
            .chain(MORE_PLACES)
            .map(|dir| Utf8Path::new(dir).join("mke2fs"))
            .find(|tool| tool.is_file())
            .ok_or(BuildDiskError::NoMke2fs)?;
        let output = Command::new(&tool)
            .arg("-V")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| BuildDiskError::Run { tool: tool.clone(), source })?;
        let answer = String::from_utf8_lossy(&output.stderr).into_owned();
        let version = parse_version(&answer)
            .ok_or_else(|| BuildDiskError::UnknownVersion { tool: tool.clone(), answer })?;
        let tar_input = if version >= FIRST_WITH_TAR { TarInput::Direct } else { TarInput::ThroughDirectory };
        Ok(Self { path: tool, tar_input })
    }

    /// Makes a new sparse file of `bytes` at `out` with a file system as `arguments` say.
    fn run(
        &self,
        out: &Utf8Path,
        bytes: u64,
        arguments: &[&str],
        content: Option<&Content>,
    ) -> Result<(), BuildDiskError> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(out)
            .map_err(|source| BuildDiskError::Create { path: out.to_owned(), source })?;
        let result = file
            .set_len(bytes)
            .map_err(|source| BuildDiskError::Create { path: out.to_owned(), source })
            .and_then(|()| self.format(out, arguments, content))
            .and_then(|()| {
                file.sync_all().map_err(|source| BuildDiskError::Flush { path: out.to_owned(), source })
            });
        if result.is_err() {
            // The error that brought us here is the one to report.
            let _ignored: io::Result<()> = std::fs::remove_file(out);
        }
        result
    }

    fn format(
        &self,
        out: &Utf8Path,
        arguments: &[&str],
        content: Option<&Content>,
    ) -> Result<(), BuildDiskError> {
        let mut command = match content {
            None => Command::new(&self.path),
            Some(Content::Tar(tar)) => {
                let mut command = Command::new(&self.path);
                command.arg("-d").arg(tar);
                command
            }
            Some(Content::UnpackThenRead { tar, directory }) => {
                let mut command = unpacking(tar, directory);
                command.arg(&self.path).arg("-d").arg(directory);
                command
            }
        };
        command
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0"])
            .args(arguments)
            .arg(out);
        // Names in a tar are UTF-8, and libarchive refuses those that the locale cannot spell.
        command.env("LC_ALL", "C.UTF-8");
        // A file that does not exist makes mke2fs use the defaults compiled into it.
        command.env("MKE2FS_CONFIG", "/nonexistent/mke2fs.conf");
        let output = command
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

/// Where the files of an image come from.
enum Content {
    Tar(Utf8PathBuf),
    UnpackThenRead { tar: Utf8PathBuf, directory: Utf8PathBuf },
}

/// A command which unpacks `tar` into `directory` and then becomes its further arguments. Owners and devices are real for
/// root, and as fakeroot remembers them for anybody else.
fn unpacking(tar: &Utf8Path, directory: &Utf8Path) -> Command {
    const SCRIPT: &str =
        r#"tar --numeric-owner --xattrs --xattrs-include='*' -xpf "$1" -C "$2" && shift 2 && exec "$@""#;
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new("fakeroot");
        command.arg("sh");
        command
    };
    command.args(["-c", SCRIPT, "sh"]).arg(tar).arg(directory);
    command
}

/// Makes the read-only image `out` from the files in `tar`, just large enough for them.
///
/// It has no journal: nothing writes to it, and a mount needs no replay.
///
/// # Errors
/// When mke2fs fails or is missing, when `tar` is damaged, or when `out` exists.
pub fn rootfs_from_tar(
    mke2fs: &Mke2fs,
    tar: &Utf8Path,
    out: &Utf8Path,
    options: &DiskOptions,
) -> Result<(), BuildDiskError> {
    let read_error = |source| BuildDiskError::ReadTar { path: tar.to_owned(), source };
    let size = tar_size::measure(File::open(tar).map_err(read_error)?).map_err(read_error)?;
    // Inodes have 256 bytes. Some room for directories that outgrow a block and for files of many extents.
    let inodes = size.entries + size.entries / 16 + 1024;
    let bytes = size.content + size.content / 16 + inodes * 256 + 32 * MIB;
    let inodes = inodes.to_string();
    let mut arguments = vec!["-O", "^has_journal,^resize_inode,^orphan_file", "-N", &inodes];
    if let Some(label) = &options.label {
        arguments.extend(["-L", label]);
    }
    let hash_seed;
    if let Some(uuid) = &options.uuid {
        hash_seed = format!("hash_seed={uuid}");
        arguments.extend(["-U", uuid, "-E", &hash_seed]);
    }
    let unpacked;
    let content = match mke2fs.tar_input {
        TarInput::Direct => Content::Tar(tar.to_owned()),
        TarInput::ThroughDirectory => {
            unpacked = TemporaryDirectory::beside(out)?;
            Content::UnpackThenRead { tar: tar.to_owned(), directory: unpacked.0.clone() }
        }
    };
    mke2fs.run(out, bytes.next_multiple_of(MIB), &arguments, Some(&content))
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
    mke2fs.run(&rough, bytes, &arguments, None)?;
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

struct TemporaryDirectory(Utf8PathBuf);

impl TemporaryDirectory {
    fn beside(path: &Utf8Path) -> Result<Self, BuildDiskError> {
        let directory = sibling(path, "unpacked");
        std::fs::create_dir(&directory)
            .map_err(|source| BuildDiskError::Create { path: directory.clone(), source })?;
        Ok(Self(directory))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // Left-overs have a name that says what they are; there is nothing better to do with the error.
        let _ignored: io::Result<()> = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads "mke2fs 1.47.2 (1-Jan-2025)".
fn parse_version(answer: &str) -> Option<(u32, u32, u32)> {
    let version = answer.lines().find_map(|line| line.strip_prefix("mke2fs "))?.split_whitespace().next()?;
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse::<u32>());
    let major = parts.next()?.ok()?;
    let minor = parts.next()?.ok()?;
    let patch = parts.next().and_then(Result::ok).unwrap_or(0);
    Some((major, minor, patch))
}

fn tail(stderr: &[u8]) -> String {
    let from = stderr.len().saturating_sub(MAX_STDERR);
    let text = String::from_utf8_lossy(&stderr[from..]).trim().to_owned();
    if text.is_empty() { "it gave no reason".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tar_size::tests::entry;

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

    fn small_tar(dir: &Utf8Path) -> Utf8PathBuf {
        let mut tar = entry("./", b'5', 0o755, 0, b"");
        tar.extend(entry("./bin", b'5', 0o755, 0, b""));
        tar.extend(entry("./bin/sudo", b'0', 0o4755, 0, &[9; 70_000]));
        tar.extend(entry("./home", b'5', 0o755, 1000, b""));
        tar.extend(entry("./home/note", b'0', 0o640, 1000, b"hello\n"));
        // A name beyond ASCII, as GNU tar writes it in its pax format.
        tar.extend(entry("pax", b'x', 0o644, 0, "18 path=./caf\u{e9}-1\n".as_bytes()));
        tar.extend(entry("./caf-1", b'0', 0o644, 0, b""));
        tar.extend([0; 1024]);
        let path = dir.join("rootfs.tar");
        std::fs::write(&path, tar).unwrap();
        path
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("mke2fs 1.47.2 (1-Jan-2025)\n\tUsing EXT2FS"), Some((1, 47, 2)));
        assert_eq!(parse_version("mke2fs 1.47.0-rc1 (x)"), Some((1, 47, 0)));
        assert_eq!(parse_version("mke2fs 1.48 (x)"), Some((1, 48, 0)));
        assert_eq!(parse_version("sh: not found"), None);
    }

    #[test]
    fn an_image_keeps_owners_modes_and_content_with_and_without_tar_support() {
        let (_guard, dir) = temporary();
        let tar = small_tar(&dir);
        let found = Mke2fs::find().unwrap();
        for tar_input in [TarInput::Direct, TarInput::ThroughDirectory] {
            let mke2fs = Mke2fs { tar_input, ..found.clone() };
            let image = dir.join(format!("{tar_input:?}.ext4"));
            let options = DiskOptions {
                label: Some("shed-image".into()),
                uuid: Some("6d0c6d52-7f3a-4a0f-9c56-5a2d9be8a111".into()),
            };
            rootfs_from_tar(&mke2fs, &tar, &image, &options).unwrap();

            let (clean, report) = e2fs(&mke2fs, "e2fsck", &["-fn", image.as_str()]);
            assert!(clean, "{report}");
            let (_, sudo) = e2fs(&mke2fs, "debugfs", &["-R", "stat /bin/sudo", image.as_str()]);
            assert!(sudo.contains("Mode:  04755"), "{sudo}");
            let (_, note) = e2fs(&mke2fs, "debugfs", &["-R", "stat /home/note", image.as_str()]);
            assert!(note.contains("User:  1000") && note.contains("Mode:  0640"), "{note}");
            let (_, content) = e2fs(&mke2fs, "debugfs", &["-R", "cat /home/note", image.as_str()]);
            assert!(content.contains("hello\n"), "{content}");
            let (_, root) = e2fs(&mke2fs, "debugfs", &["-R", "ls -p /", image.as_str()]);
            assert!(root.contains("/caf\u{e9}-1/"), "{root}");
            let (_, header) = e2fs(&mke2fs, "dumpe2fs", &["-h", image.as_str()]);
            assert!(!header.contains("has_journal") && header.contains("6d0c6d52-7f3a"), "{header}");
        }
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "the tar and two images only: {left:?}");
    }

    #[test]
    fn a_damaged_tar_leaves_no_image() {
        let (_guard, dir) = temporary();
        let tar = dir.join("bad.tar");
        std::fs::write(&tar, [b'x'; 4096]).unwrap();
        let out = dir.join("out.ext4");
        let result = rootfs_from_tar(&Mke2fs::find().unwrap(), &tar, &out, &DiskOptions::default());
        assert!(matches!(result, Err(BuildDiskError::ReadTar { .. })), "{result:?}");
        assert!(!out.exists());
    }

    #[test]
    fn what_mke2fs_says_is_in_the_error_and_nothing_is_left() {
        let (_guard, dir) = temporary();
        let out = dir.join("out.ext4");
        let options = DiskOptions { uuid: Some("no-uuid".into()), ..DiskOptions::default() };
        let result = rootfs_from_tar(&Mke2fs::find().unwrap(), &small_tar(&dir), &out, &options);
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
