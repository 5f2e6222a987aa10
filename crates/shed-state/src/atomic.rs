//! Writes a file whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
};

use camino::{Utf8Path, Utf8PathBuf};

/// Why a file was not written; what was there before is there still.
#[derive(Debug, thiserror::Error)]
#[error("could not write {path}")]
pub struct WriteFileError {
    /// The file.
    pub path: Utf8PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// Replaces `path` with `content`, readable as `mode` says.
///
/// # Errors
/// When any step fails; the temporary file is gone then and the old content untouched.
pub fn write(path: &Utf8Path, content: &[u8], mode: u32) -> Result<(), WriteFileError> {
    write_inner(path, content, mode).map_err(|source| WriteFileError { path: path.to_owned(), source })
}

/// Makes `path` with `content`, readable as `mode` says, unless there is something already.
///
/// Returns whether it was made. Of two callers at once exactly one makes it, and the other finds it whole.
///
/// # Errors
/// When any step fails; the temporary file is gone then.
pub fn create(path: &Utf8Path, content: &[u8], mode: u32) -> Result<bool, WriteFileError> {
    create_inner(path, content, mode).map_err(|source| WriteFileError { path: path.to_owned(), source })
}

fn write_inner(path: &Utf8Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (temporary, directory) = write_temporary(path, content, mode)?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_directory(directory)
}

fn create_inner(path: &Utf8Path, content: &[u8], mode: u32) -> io::Result<bool> {
    let (temporary, directory) = write_temporary(path, content, mode)?;
    match temporary.persist_noclobber(path) {
        Ok(_file) => sync_directory(directory).map(|()| true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Writes a synced file beside `path`, which is gone when it is dropped, and returns it with its directory.
fn write_temporary<'a>(
    path: &'a Utf8Path,
    content: &[u8],
    mode: u32,
) -> io::Result<(tempfile::NamedTempFile, &'a Utf8Path)> {
    let directory = path.parent().filter(|dir| !dir.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    // The name begins with a dot and ends with .tmp so that a scan recognises what a killed process left.
    let mut temporary = tempfile::Builder::new()
        .prefix(&format!(".{}.", path.file_name().unwrap_or("file")))
        .suffix(TEMPORARY_SUFFIX)
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)?;
    temporary.write_all(content)?;
    temporary.as_file().sync_all()?;
    Ok((temporary, directory))
}

/// Ends the names of temporary files, see [`is_temporary`].
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Returns whether a file name is one that [`write`] leaves when it is killed half-way.
#[must_use]
pub fn is_temporary(file_name: &str) -> bool {
    file_name.starts_with('.') && file_name.ends_with(TEMPORARY_SUFFIX)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_directory(directory: &Utf8Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() {
        let (_guard, dir) = scratch();
        let file = dir.join("x.json");
        write(&file, b"a long first content", 0o600).unwrap();
        write(&file, b"short", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"short");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_nothing() {
        let (_guard, dir) = scratch();
        let blocked = dir.join("blocked");
        fs::create_dir(&blocked).unwrap();
        fs::write(blocked.join("child"), b"").unwrap();
        let error = write(&blocked, b"x", 0o600).unwrap_err();
        assert_eq!(error.path, blocked);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_file_that_is_there_is_not_made_again() {
        let (_guard, dir) = scratch();
        let file = dir.join("key");
        let results: Vec<bool> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8)
                .map(|n: u8| {
                    let file = &file;
                    scope.spawn(move || create(file, &[n; 4096], 0o600).unwrap())
                })
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        let winner = results.iter().position(|made| *made).unwrap();
        assert_eq!(results.iter().filter(|made| **made).count(), 1);
        assert_eq!(fs::read(&file).unwrap(), vec![u8::try_from(winner).unwrap(); 4096]);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn temporary_names_are_recognised_and_others_are_not() {
        assert!(is_temporary(".metadata.json.Ab12.tmp"));
        assert!(!is_temporary("metadata.json") && !is_temporary("x.tmp") && !is_temporary(".hidden"));
    }
}
