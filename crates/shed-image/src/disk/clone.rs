//! Copies a disk file without filling its holes.
//!
//! Called when a shed gets its disk from the template, so it must cost the same for 1 GB and 1 TB: a reflink where the
//! file system can (btrfs, xfs, APFS), else only the ranges that hold data are copied. It never overwrites.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

use std::{fs::File, io, os::unix::fs::FileExt as _};

use camino::{Utf8Path, Utf8PathBuf};

/// How a disk was copied; worth a line in the log, because it decides what a create costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneMethod {
    /// The file system shares the blocks; nothing was copied.
    Reflink,
    /// Only ranges with data were copied.
    SparseCopy,
}

/// Says why a disk was not copied. There is no file at `dst` then, unless it was there before.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    #[error("cannot open {path} to copy it")]
    OpenSource {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot create {path}")]
    CreateTarget {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot copy {from} to {to}")]
    Copy {
        from: Utf8PathBuf,
        to: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Copies `src` to the new file `dst` and flushes its content to the disk.
///
/// Holes stay holes. The directory of `dst` is not flushed: the caller's record of the file decides when that matters.
///
/// # Errors
/// When `src` cannot be read, `dst` exists or cannot be made, or the disk is full. What was written is removed.
pub fn clone_sparse(src: &Utf8Path, dst: &Utf8Path) -> Result<CloneMethod, CloneError> {
    let from = File::open(src).map_err(|source| CloneError::OpenSource { path: src.to_owned(), source })?;
    let created = platform::create(&from, dst)
        .map_err(|source| CloneError::CreateTarget { path: dst.to_owned(), source })?;
    let unfinished = RemoveOnDrop(Some(dst));
    let copied = match &created {
        Created::Cloned(to) => to.sync_all().map(|()| CloneMethod::Reflink),
        Created::Empty(to) => platform::copy_data_ranges(&from, to)
            .and_then(|()| to.sync_all())
            .map(|()| CloneMethod::SparseCopy),
    };
    let method =
        copied.map_err(|source| CloneError::Copy { from: src.to_owned(), to: dst.to_owned(), source })?;
    unfinished.keep();
    Ok(method)
}

/// A target that did not exist before.
enum Created {
    /// It already shares every block of the source.
    Cloned(File),
    /// It still has to be filled.
    Empty(File),
}

/// Reads and writes `start..end`, leaving out blocks of zeros: the target must be as long as the source and all hole.
fn copy_by_hand(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    const BLOCK: usize = 4096;
    let mut buffer = vec![0; 256 * BLOCK];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let got = match from.read_at(&mut buffer[..want], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for block in buffer[..got].chunks(BLOCK) {
            if block.iter().any(|&byte| byte != 0) {
                to.write_all_at(block, at)?;
            }
            at += block.len() as u64;
        }
    }
    Ok(())
}

/// Removes a half-written file when the copy fails or unwinds.
struct RemoveOnDrop<'a>(Option<&'a Utf8Path>);

impl RemoveOnDrop<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // The error that brought us here is the one to report.
            let _ignored: io::Result<()> = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    /// A sparse file of `len` bytes with `data` at the given places.
    fn sparse(path: &Utf8Path, len: u64, data: &[(u64, Vec<u8>)]) {
        let file = File::options().write(true).create_new(true).open(path).unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in data {
            file.write_all_at(bytes, *at).unwrap();
        }
        file.sync_all().unwrap();
    }

    fn allocated(path: &Utf8Path) -> u64 {
        std::fs::metadata(path).unwrap().blocks() * 512
    }

    #[test]
    fn holes_stay_holes() {
        let (_guard, dir) = temporary();
        let (src, dst) = (dir.join("src"), dir.join("dst"));
        let data = [(0, vec![1; 4096]), (700 * MIB, vec![2; 10_000]), (1024 * MIB - 5, vec![3; 5])];
        sparse(&src, 1024 * MIB, &data);
        clone_sparse(&src, &dst).unwrap();

        assert_eq!(std::fs::metadata(&dst).unwrap().len(), 1024 * MIB);
        assert!(allocated(&dst) <= allocated(&src) + 64 * 1024, "{} bytes", allocated(&dst));
        let copy = File::open(&dst).unwrap();
        for (at, bytes) in data {
            let mut back = vec![0; bytes.len()];
            copy.read_exact_at(&mut back, at).unwrap();
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn a_file_that_is_all_hole_and_an_empty_one_are_copied() {
        let (_guard, dir) = temporary();
        for len in [0, 1, 4096, 3 * MIB + 7] {
            let (src, dst) = (dir.join(format!("src{len}")), dir.join(format!("dst{len}")));
            sparse(&src, len, &[]);
            clone_sparse(&src, &dst).unwrap();
            assert_eq!(std::fs::read(&dst).unwrap(), std::fs::read(&src).unwrap());
        }
    }

    #[test]
    fn an_existing_target_is_left_alone() {
        let (_guard, dir) = temporary();
        let (src, dst) = (dir.join("src"), dir.join("dst"));
        sparse(&src, 10, &[]);
        std::fs::write(&dst, b"precious").unwrap();
        assert!(matches!(clone_sparse(&src, &dst), Err(CloneError::CreateTarget { .. })));
        assert_eq!(std::fs::read(&dst).unwrap(), b"precious");
    }

    #[test]
    fn a_failed_copy_leaves_nothing() {
        let (_guard, dir) = temporary();
        let dst = dir.join("dst");
        assert!(matches!(clone_sparse(&dir.join("none"), &dst), Err(CloneError::OpenSource { .. })));
        assert!(!dst.exists());
        // A directory opens like a file and then cannot be read.
        assert!(clone_sparse(&dir, &dst).is_err());
        assert!(!dst.exists());
    }

    #[test]
    fn a_copy_by_hand_skips_zeros() {
        let (_guard, dir) = temporary();
        let (src, dst) = (dir.join("src"), dir.join("dst"));
        std::fs::write(&src, vec![0; 8 << 20]).unwrap();
        let from = File::open(&src).unwrap();
        let to = File::options().write(true).create_new(true).open(&dst).unwrap();
        to.set_len(8 * MIB).unwrap();
        copy_by_hand(&from, &to, 0, 8 * MIB).unwrap();
        assert_eq!(allocated(&dst), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_copy_equals_its_source(
            len in 0u64..600_000,
            pieces in proptest::collection::vec((0u64..600_000, 1usize..9_000, any::<u8>()), 0..6)
        ) {
            let (_guard, dir) = temporary();
            let (src, dst, by_hand) = (dir.join("src"), dir.join("dst"), dir.join("by-hand"));
            let data: Vec<_> = pieces.into_iter().map(|(at, n, byte)| (at, vec![byte; n])).collect();
            sparse(&src, len, &data);
            clone_sparse(&src, &dst).unwrap();
            let original = std::fs::read(&src).unwrap();
            prop_assert_eq!(&std::fs::read(&dst).unwrap(), &original);

            let to = File::options().write(true).create_new(true).open(&by_hand).unwrap();
            to.set_len(original.len() as u64).unwrap();
            copy_by_hand(&File::open(&src).unwrap(), &to, 0, original.len() as u64).unwrap();
            prop_assert_eq!(&std::fs::read(&by_hand).unwrap(), &original);
        }
    }
}
