//! What is in a directory, for comparing before with after.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt};

use camino::{Utf8Path, Utf8PathBuf};

/// Lists everything below `dir`: path, kind, length and, for files that are not a running machine's own, the time of
/// the last change. Two equal listings mean that nothing was changed in between.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn listing(dir: &Utf8Path) -> BTreeMap<Utf8PathBuf, String> {
    let mut found = BTreeMap::new();
    walk(dir, &mut found).unwrap_or_else(|error| panic!("cannot list {dir}: {error}"));
    found
}

fn walk(dir: &Utf8Path, found: &mut BTreeMap<Utf8PathBuf, String>) -> io::Result<()> {
    for entry in dir.read_dir_utf8()? {
        let path = entry?.into_path();
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let description = if metadata.is_dir() {
            walk(&path, found)?;
            "directory".to_owned()
        } else if matches!(path.file_name(), Some("rootfs.ext4" | "console.log" | "vmm.log" | "server.log")) {
            // A running machine, or the server, writes to these at any time.
            "in use".to_owned()
        } else {
            format!("{} bytes, changed {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
        };
        found.insert(path, description);
    }
    Ok(())
}
