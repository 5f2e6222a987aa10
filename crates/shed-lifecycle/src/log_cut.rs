//! Cuts a log to its end, in place: the same file, because a VMM may hold it open for appending.
//!
//! A boot cuts a console that has grown large, a prune cuts logs on request. The writer goes on meanwhile: it appends,
//! so what it writes lands behind whatever the file holds at that moment, and no hole comes to be. Nothing here makes a
//! file, waits for a pipe or follows a link.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
};

use camino::Utf8Path;
use rustix::{fs::OFlags, io::Errno};

use crate::space::Space;

/// How much is moved at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// How much a guest may write while its log is cut before the rest is given up, in bytes: one that writes as fast as its
/// log is copied must not keep the server busy.
const MEANWHILE: u64 = 4 << 20;

/// What a cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub before: Space,
    pub after: Space,
}

/// Cuts the log to its last `keep` bytes if it is longer than `above`, which is not less. Returns nothing when it is not,
/// when it is no regular file, or when somebody else cuts it at this moment.
///
/// What the writer adds between the last look and the cut is lost, a matter of microseconds. A process that is killed
/// in the middle leaves the log at its old length, with its end in front.
///
/// # Errors
/// When the file cannot be opened, read or written.
pub(crate) fn cut(path: &Utf8Path, above: u64, keep: u64) -> io::Result<Option<Cut>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        match File::options().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A link, a socket.
            Err(error) if [Errno::LOOP, Errno::NXIO].contains(&errno(&error)) => return Ok(None),
            Err(error) => return Err(error),
        };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() <= above {
        return Ok(None);
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Looked at again: the one who held the lock before may have cut it.
    let metadata = file.metadata()?;
    if metadata.len() <= above {
        return Ok(None);
    }
    move_end_to_front(&file, metadata.len(), keep)?;
    Ok(Some(Cut { before: Space::of(&metadata), after: Space::of(&file.metadata()?) }))
}

/// Copies the last `keep` bytes of a file that had `end` bytes to its beginning, and what was appended meanwhile behind
/// them; then ends the file there. The source is always behind the target, so nothing is overwritten unread.
fn move_end_to_front(file: &File, end: u64, keep: u64) -> io::Result<()> {
    let mut from = end - keep;
    let mut to = 0;
    let mut chunk = vec![0; CHUNK];
    while from < end.saturating_add(MEANWHILE) {
        let read = match file.read_at(&mut chunk, from) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        file.write_all_at(&chunk[..read], to)?;
        from += read as u64;
        to += read as u64;
    }
    file.set_len(to)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::MetadataExt};

    use camino::Utf8PathBuf;
    use proptest::prelude::*;

    use super::*;

    fn log(content: &[u8]) -> (tempfile::TempDir, Utf8PathBuf) {
        let guard = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(guard.path()).unwrap().join("console.log");
        std::fs::write(&path, content).unwrap();
        (guard, path)
    }

    #[test]
    fn the_end_stays_in_the_same_file_and_an_appender_goes_on_behind_it() {
        let text: Vec<u8> =
            (0..200_000u32).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
        let (_guard, path) = log(&text);
        let inode = path.metadata().unwrap().ino();
        let mut writer = File::options().append(true).open(&path).unwrap();
        let keep = 1_000_000;
        let cut = cut(&path, keep, keep).unwrap().unwrap();
        assert_eq!((cut.before.logical_bytes, cut.after.logical_bytes), (text.len() as u64, keep));
        writer.write_all(b"and on\n").unwrap();
        let mut expected = text[text.len() - 1_000_000..].to_vec();
        expected.extend(b"and on\n");
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert_eq!(path.metadata().unwrap().ino(), inode);
    }

    #[test]
    fn what_is_short_missing_or_no_file_is_left_alone() {
        let (guard, path) = log(b"12345");
        assert_eq!(cut(&path, 5, 5).unwrap(), None);
        assert_eq!(cut(&path.with_file_name("none"), 0, 0).unwrap(), None);
        let link = path.with_file_name("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(cut(&link, 1, 1).unwrap(), None);
        let pipe = path.with_file_name("pipe");
        shed_testkit::make_pipe(&pipe);
        assert_eq!(cut(&pipe, 0, 0).unwrap(), None);
        let socket = path.with_file_name("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(cut(&socket, 0, 0).unwrap(), None);
        assert_eq!(std::fs::read(&path).unwrap(), b"12345");
        drop(guard);
    }

    #[test]
    fn two_do_not_cut_the_same_log() {
        let (_guard, path) = log(b"12345");
        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        assert_eq!(cut(&path, 1, 1).unwrap(), None);
        drop(other);
        assert!(cut(&path, 1, 1).unwrap().is_some());
        assert_eq!(std::fs::read(&path).unwrap(), b"5");
    }

    #[test]
    fn lines_written_while_it_is_cut_come_whole_and_in_order() {
        let (_guard, path) = log(&[b'x'; 3 << 20]);
        let writing = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            let _writer = scope.spawn(|| {
                let mut log = File::options().append(true).open(&path).unwrap();
                let mut number = 0;
                while writing.load(std::sync::atomic::Ordering::Relaxed) {
                    log.write_all(format!("{number:09}\n").as_bytes()).unwrap();
                    number += 1;
                }
            });
            for _ in 0..20 {
                cut(&path, 1 << 20, 1 << 20).unwrap();
            }
            writing.store(false, std::sync::atomic::Ordering::Relaxed);
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains('\0'), "no hole");
        let lines: Vec<&str> = text.trim_start_matches('x').lines().collect();
        // The first may have lost its beginning to a cut.
        let numbers: Vec<u64> = lines.iter().skip(1).filter_map(|line| line.parse().ok()).collect();
        assert!(numbers.is_sorted(), "in order");
    }

    proptest! {
        #[test]
        fn exactly_the_end_is_kept(content in prop::collection::vec(any::<u8>(), 0..2000), keep in 0usize..2000) {
            let (_guard, path) = log(&content);
            let done = cut(&path, keep as u64, keep as u64).unwrap();
            prop_assert_eq!(done.is_some(), content.len() > keep);
            let expected = &content[content.len().saturating_sub(keep)..];
            prop_assert_eq!(std::fs::read(&path).unwrap(), expected);
        }
    }
}
