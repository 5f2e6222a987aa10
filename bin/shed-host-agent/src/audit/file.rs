//! The file of the audit log: the user's own, appended to, rotated.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
};

use camino::{Utf8Path, Utf8PathBuf};

/// Longest file in bytes.
const MOST: u64 = 10 << 20;

/// How many full files are kept beside the one that is written.
const KEPT: u32 = 3;

/// Appends a text, whole or not at all. A full file is moved aside before.
pub(super) fn append(path: &Utf8Path, text: &[u8]) -> io::Result<()> {
    let (mut file, length) = open(path)?;
    let (mut file, length) = if length > 0 && length + text.len() as u64 > MOST {
        rotate(path)?;
        file = open(path)?.0;
        (file, 0)
    } else {
        (file, length)
    };
    file.write_all(text).inspect_err(|_| {
        // Half a line would spoil the next one. When the disk is so broken that this fails, so does the next write.
        let _kept = file.set_len(length);
    })
}

/// Opens the file, makes it when it is not there, and returns its length.
fn open(path: &Utf8Path) -> io::Result<(File, u64)> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it is not a file of this user; move it away or set logging.path"));
    }
    if about.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok((file, about.len()))
}

/// Moves the file aside; the oldest is overwritten.
fn rotate(path: &Utf8Path) -> io::Result<()> {
    for number in (1..KEPT).rev() {
        match fs::rename(aside(path, number), aside(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    fs::rename(path, aside(path, 1))
}

fn aside(path: &Utf8Path, number: u32) -> Utf8PathBuf {
    format!("{path}.{number}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Utf8Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_file_and_its_directory_are_the_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("x/audit.log");
        append(&path, b"a\n").unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        append(&path, b"b\n").unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"a\nb\n".to_vec()));
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        fs::write(dir.join("mine"), "precious").unwrap();
        std::os::unix::fs::symlink(dir.join("mine"), dir.join("audit.log")).unwrap();
        assert!(append(&dir.join("audit.log"), b"a\n").is_err());
        assert_eq!(fs::read(dir.join("mine")).unwrap(), b"precious");
    }

    #[test]
    fn a_full_file_is_moved_aside_and_three_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("audit.log");
        for number in 1..=5 {
            let file = File::create(&path).unwrap();
            file.set_len(MOST - 1 - number).unwrap();
            append(&path, &[b'x'; 9]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), [b'x'; 9]);
            assert_eq!(fs::metadata(aside(&path, 1)).unwrap().len(), MOST - 1 - number);
        }
        let lengths: Vec<_> =
            (1..=4).map(|n| fs::metadata(aside(&path, n)).map(|m| MOST - 1 - m.len()).ok()).collect();
        assert_eq!(lengths, [Some(5), Some(4), Some(3), None]);
    }
}
