//! What files take: their lengths, and their blocks on the host's disk.
//!
//! The report of disk usage and the prune measure with this. A file is looked at by itself, never through a link, and
//! only regular files count: a socket or pipe takes nothing, and what a link leads to is somebody else's.

use std::{fs, io, iter::Sum, os::unix::fs::MetadataExt, time::SystemTime};

use camino::{Utf8Path, Utf8PathBuf};

/// What files take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Lengths.
    pub logical_bytes: u64,
    /// Blocks of 512 bytes (stat(2), `st_blocks`), times 512. Blocks that several files share count for each of them.
    pub physical_bytes: u64,
}

impl Space {
    /// Returns what the file of this metadata takes.
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self { logical_bytes: metadata.len(), physical_bytes: metadata.blocks().saturating_mul(512) }
    }
}

impl Sum for Space {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, space| Self {
            logical_bytes: sum.logical_bytes.saturating_add(space.logical_bytes),
            physical_bytes: sum.physical_bytes.saturating_add(space.physical_bytes),
        })
    }
}

/// A regular file that was there a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundFile {
    pub path: Utf8PathBuf,
    pub space: Space,
    pub modified: SystemTime,
}

/// Looks at a file; nothing when there is none, or it is no regular one.
pub(crate) fn look(path: &Utf8Path) -> io::Result<Option<FoundFile>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(FoundFile {
            path: path.to_owned(),
            space: Space::of(&metadata),
            modified: metadata.modified()?,
        })),
        Ok(_other) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the regular files in a directory, by path. One that does not exist has none; files that vanish meanwhile are
/// left out, as are names that are no text.
pub(crate) fn files_in(directory: &Utf8Path) -> io::Result<Vec<FoundFile>> {
    let entries = match directory.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => files.extend(look(entry.path())?),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => return Err(error),
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_count_and_each_by_itself() {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(guard.path()).unwrap();
        fs::write(dir.join("b"), vec![1; 5000]).unwrap();
        fs::File::create(dir.join("a")).unwrap().set_len(1 << 30).unwrap();
        fs::create_dir(dir.join("directory")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        let found = files_in(dir).unwrap();
        let names: Vec<_> = found.iter().map(|file| file.path.file_name().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!((found[0].space.logical_bytes, found[1].space.logical_bytes), (1 << 30, 5000));
        assert!(found[0].space.physical_bytes < 1 << 20, "a hole takes nothing: {:?}", found[0].space);
        assert_eq!(files_in(&dir.join("none")).unwrap(), []);
    }

    #[test]
    fn sums_do_not_overflow() {
        let huge = Space { logical_bytes: u64::MAX, physical_bytes: 1 };
        let sum: Space = [huge, huge].into_iter().sum();
        assert_eq!(sum, Space { logical_bytes: u64::MAX, physical_bytes: 2 });
    }
}
