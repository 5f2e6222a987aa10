//! Replaces a file as a whole: whoever dies in the middle leaves the old one or the new one.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Replaces `path`, unless it has this content already. A link is followed to the file it names.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(".shed-new");
    let new = path.with_file_name(name);
    // Left by an agent that died in the middle.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_same_content_is_not_written_again_and_nothing_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostname");
        replace(&path, b"a\n", 0o644).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        replace(&path, b"a\n", 0o644).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        fs::write(dir.path().join(".hostname.shed-new"), "left over").unwrap();
        replace(&path, b"b\n", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"b\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
