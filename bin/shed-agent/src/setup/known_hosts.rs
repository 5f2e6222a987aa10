//! The keys of SSH servers that a clone may meet, in ~/.ssh/known_hosts: lines that are missing are added.
//!
//! The directory may be a mount that cannot be written to, and the file may be the user's own work. Everything is done as
//! the user and beneath the home directory; what is there already stays.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};

const FILE: &str = "known_hosts";

/// The file while it is written.
const NEW: &str = ".known_hosts.shed-new";

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Most lines that a host sends, and the longest of them, in bytes.
const MAX_LINES: usize = 1000;
const MAX_LINE: usize = 8 << 10;

/// Whether these can be lines of such a file.
pub(super) fn are_lines(lines: &[String]) -> bool {
    let good = |line: &String| line.len() <= MAX_LINE && !line.chars().any(char::is_control);
    lines.len() <= MAX_LINES && lines.iter().all(good)
}

/// Adds the lines that are missing; to be called as the user whose home this is.
pub(super) fn add(home: &Path, lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let beneath = |at: &dyn AsFd, path: &str, flags: OFlags| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(at.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    };
    let home_dir =
        rustix::fs::openat(CWD, home, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    let ssh = match beneath(&home_dir, ".ssh", directory) {
        Err(Errno::NOENT) => {
            DirBuilder::new().mode(0o700).create(home.join(".ssh"))?;
            beneath(&home_dir, ".ssh", directory)?
        }
        opened => opened?,
    };
    let mut old = Vec::new();
    let is_link = match rustix::fs::readlinkat(&ssh, FILE, Vec::new()) {
        Ok(_) => true,
        Err(Errno::NOENT | Errno::INVAL) => false,
        Err(error) => return Err(error.into()),
    };
    // Beneath the home, from where a link inside of it may lead to any place inside of it.
    match beneath(&home_dir, ".ssh/known_hosts", OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => {
            let file = File::from(file);
            if !file.metadata()?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "known_hosts is no file"));
            }
            file.take(MAX_FILE + 1).read_to_end(&mut old)?;
        }
        Err(Errno::NOENT) if !is_link => {}
        Err(error) => return Err(error.into()),
    }
    if u64::try_from(old.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "known_hosts is too long"));
    }
    let missing = missing(&old, lines);
    if missing.is_empty() {
        return Ok(());
    }
    if is_link {
        // To replace it would part the two; a line more at its end is all or nothing to its readers.
        let mut file = File::from(beneath(&home_dir, ".ssh/known_hosts", OFlags::WRONLY | OFlags::APPEND)?);
        file.write_all(&missing)?;
        return file.sync_all();
    }
    match rustix::fs::unlinkat(&ssh, NEW, AtFlags::empty()) {
        // Left by an agent that died in the middle, or not there.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(&ssh, NEW, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&[old, missing].concat())?;
    file.sync_all()?;
    rustix::fs::renameat(&ssh, NEW, &ssh, FILE)?;
    rustix::fs::fsync(&ssh).map_err(Into::into)
}

/// What has to be written behind `old` so that all lines are there.
fn missing(old: &[u8], lines: &[String]) -> Vec<u8> {
    let text = String::from_utf8_lossy(old);
    let mut there: Vec<&str> = text.lines().map(str::trim).collect();
    let mut missing = String::new();
    for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()) {
        if !there.contains(&line) {
            there.push(line);
            missing += line;
            missing.push('\n');
        }
    }
    if !missing.is_empty() && !old.is_empty() && !old.ends_with(b"\n") {
        missing.insert(0, '\n');
    }
    missing.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn missing_lines_are_added_once_to_what_is_there() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".ssh/known_hosts");
        add(home.path(), &[]).unwrap();
        assert!(!home.path().join(".ssh").exists());
        for _ in 0..2 {
            add(home.path(), &lines(&["a key", " b key ", "a key", ""])).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "a key\nb key\n");
        }
        fs::write(&file, "# mine\nb key").unwrap();
        add(home.path(), &lines(&["a key", "b key"])).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "# mine\nb key\na key\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home.path().join(".ssh")), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read_dir(home.path().join(".ssh")).unwrap().count(), 1);
    }

    #[test]
    fn links_are_followed_inside_the_home_and_not_out_of_it() {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = home.path().join(".ssh/known_hosts");
        fs::create_dir_all(home.path().join("dots")).unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        fs::write(home.path().join("dots/hosts"), "mine\n").unwrap();
        symlink("../dots/hosts", &file).unwrap();
        add(home.path(), &lines(&["a"])).unwrap();
        assert_eq!(fs::read_to_string(home.path().join("dots/hosts")).unwrap(), "mine\na\n");
        assert!(fs::symlink_metadata(&file).unwrap().is_symlink());

        let target = outside.path().join("hosts");
        fs::write(&target, "theirs\n").unwrap();
        fs::remove_file(&file).unwrap();
        symlink(&target, &file).unwrap();
        assert!(add(home.path(), &lines(&["a"])).is_err());
        fs::remove_dir_all(home.path().join(".ssh")).unwrap();
        symlink(outside.path(), home.path().join(".ssh")).unwrap();
        assert!(add(home.path(), &lines(&["a"])).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs\n");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_no_damage() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".ssh"), "a file").unwrap();
        assert!(add(home.path(), &lines(&["a"])).is_err());
        fs::remove_file(home.path().join(".ssh")).unwrap();
        fs::create_dir_all(home.path().join(".ssh/known_hosts")).unwrap();
        assert!(add(home.path(), &lines(&["a"])).is_err());
        if !rustix::process::geteuid().is_root() {
            fs::remove_dir(home.path().join(".ssh/known_hosts")).unwrap();
            fs::set_permissions(home.path().join(".ssh"), Permissions::from_mode(0o500)).unwrap();
            assert!(add(home.path(), &lines(&["a"])).is_err());
        }
        assert!(add(&home.path().join("no such home"), &lines(&["a"])).is_err());
    }

    #[test]
    fn a_line_is_one_line() {
        assert!(are_lines(&lines(&["github.com ssh-ed25519 AAAA", ""])));
        assert!(!are_lines(&lines(&["a\nb"])));
        assert!(!are_lines(&lines(&["a\0b"])));
        assert!(!are_lines(&vec!["a".to_owned(); MAX_LINES + 1]));
        assert!(!are_lines(&["a".repeat(MAX_LINE + 1)]));
    }
}
