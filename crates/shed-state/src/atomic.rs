//! Writes a file whole or not at all.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown, lchown},
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

/// As [`write`], for a file in somebody's home directory: it stays that user's when another one writes it, such as root,
/// whom `sudo` may leave the user's `HOME`. A file that is new belongs to whoever owns the directory, when root writes it.
///
/// # Errors
/// Those of [`write`], and when the file cannot be given to its owner.
pub fn write_for_owner(path: &Utf8Path, content: &[u8], mode: u32) -> Result<(), WriteFileError> {
    write_for_owner_inner(path, content, mode)
        .map_err(|source| WriteFileError { path: path.to_owned(), source })
}

/// Gives a file that this process has just made, and nobody else, to the owner of the directory it is in, when root has
/// made it; others keep what they make.
///
/// # Errors
/// When the system refuses.
pub fn give_to_owner_of(directory: &Utf8Path, made: &File) -> io::Result<()> {
    match given_by_root(directory, &made.metadata()?)? {
        Some(owner) => fchown(made, Some(owner.uid()), Some(owner.gid())),
        None => Ok(()),
    }
}

/// Makes a directory with this mode, and those above it that are missing; when root makes it, it is given to the owner of
/// the one above.
///
/// # Errors
/// When the system refuses.
pub fn create_directory_for_owner(directory: &Utf8Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(directory)?;
    let Some(above) = directory.parent().filter(|above| !above.as_str().is_empty()) else { return Ok(()) };
    match given_by_root(above, &fs::symlink_metadata(directory)?)? {
        // A link that the user puts there meanwhile is not followed to what root has.
        Some(owner) => lchown(directory, Some(owner.uid()), Some(owner.gid())),
        None => Ok(()),
    }
}

/// Returns who owns a directory, when that is not root, and root has made something there.
fn given_by_root(directory: &Utf8Path, made: &fs::Metadata) -> io::Result<Option<fs::Metadata>> {
    if made.uid() != ROOT {
        return Ok(None);
    }
    let owner = fs::metadata(directory)?;
    Ok((owner.uid() != ROOT).then_some(owner))
}

/// User id of root.
const ROOT: u32 = 0;

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

fn write_for_owner_inner(path: &Utf8Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (temporary, directory) = write_temporary(path, content, mode)?;
    let file = temporary.as_file();
    match fs::metadata(path) {
        Ok(before) => keep_owner(file, &before, directory)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => give_to_owner_of(directory, file)?,
        Err(error) => return Err(error),
    }
    file.sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_directory(directory)
}

/// Gives a new file to the owner of the one it replaces.
fn keep_owner(file: &File, before: &fs::Metadata, directory: &Utf8Path) -> io::Result<()> {
    let made_by = file.metadata()?.uid();
    if before.uid() == made_by {
        return Ok(());
    }
    match fchown(file, Some(before.uid()), Some(before.gid())) {
        Ok(()) => Ok(()),
        // What root has left in the user's own directory may become the user's.
        Err(_) if made_by != ROOT && fs::metadata(directory)?.uid() == made_by => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("it belongs to user {}, and a new one cannot be given to them: {error}", before.uid()),
        )),
    }
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

    /// Somebody who is not root, and need not exist.
    const SOMEBODY: u32 = 54_321;

    fn owner(path: &Utf8Path) -> (u32, u32) {
        let metadata = fs::metadata(path).unwrap();
        (metadata.uid(), metadata.gid())
    }

    #[test]
    fn what_root_writes_in_a_home_directory_is_its_owner_s() {
        let (_guard, dir) = scratch();
        let own = owner(&dir);
        let (there, new) = (dir.join("config"), dir.join("new"));
        fs::write(&there, "old").unwrap();
        if own.0 == ROOT {
            std::os::unix::fs::chown(&there, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
            std::os::unix::fs::chown(&dir, Some(SOMEBODY + 1), Some(SOMEBODY + 1)).unwrap();
        }
        write_for_owner(&there, b"x", 0o600).unwrap();
        write_for_owner(&new, b"x", 0o600).unwrap();
        let expected = if own.0 == ROOT {
            [(SOMEBODY, SOMEBODY), (SOMEBODY + 1, SOMEBODY + 1)]
        } else {
            // Others cannot give files away, and theirs stay theirs.
            [own, own]
        };
        assert_eq!([owner(&there), owner(&new)], expected);
        assert_eq!((fs::read(&there).unwrap(), fs::read_dir(&dir).unwrap().count()), (b"x".to_vec(), 2));
        assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o600);
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
