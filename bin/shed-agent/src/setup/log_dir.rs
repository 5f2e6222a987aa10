//! The directory of logs, /var/log/shed: its owner is the user, so nothing there is trusted. Files are made anew under
//! their names, never opened through links, and given to the user.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid},
    io::Errno,
};

use crate::exec::users::User;

/// The directory, held open.
#[derive(Debug)]
pub(super) struct LogDir {
    path: PathBuf,
    dir: OwnedFd,
    /// Who gets the files; nobody when the agent is not root (in its own tests).
    owner: Option<(Uid, Gid)>,
}

impl LogDir {
    /// Opens it, and makes it when it is missing.
    pub(super) fn open(path: &Path, user: &User) -> io::Result<Self> {
        let root = rustix::process::geteuid().is_root();
        let owner = root.then(|| (Uid::from_raw(user.uid), Gid::from_raw(user.gid)));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(path)?;
                rustix::fs::openat(CWD, path, flags, Mode::empty())?
            }
            Err(error) => return Err(error.into()),
        };
        // Made here, or by an image, or by an agent that died before it gave it away.
        if let Some((uid, gid)) = owner.filter(|_| user.uid != 0)
            && rustix::fs::fstat(&dir)?.st_uid == 0
        {
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
            rustix::fs::fchown(&dir, Some(uid), Some(gid))?;
        }
        Ok(Self { path: path.to_owned(), dir, owner })
    }

    /// Returns the path of a file, for people.
    pub(super) fn path_of(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Makes an empty file under this name; whatever had it before keeps its content for those who hold it open.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let file = rustix::fs::openat(&self.dir, name, flags, mode)?;
        if let Some((uid, gid)) = self.owner {
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file.into())
    }

    /// Replaces a file as a whole.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        let mut file = self.create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.dir, &new, &self.dir, name)?;
        rustix::fs::fsync(self.dir.as_fd()).map_err(Into::into)
    }

    /// Reads the first `limit` bytes of a file; nothing when there is none. Links and what is no file are refused.
    pub(super) fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let mut content = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, limit), &mut content)?;
        Ok(Some(content))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn links_and_old_files_are_replaced_and_never_written_through() {
        let root = tempfile::tempdir().unwrap();
        let (precious, logs) = (root.path().join("precious"), root.path().join("logs"));
        fs::write(&precious, "precious").unwrap();
        let dir = LogDir::open(&logs, &crate::exec::users::default("", "", "")).unwrap();
        symlink(&precious, logs.join("install.log")).unwrap();
        symlink(&precious, logs.join("state")).unwrap();
        symlink(&precious, logs.join("state.new")).unwrap();
        fs::hard_link(&precious, logs.join("startup.log")).unwrap();
        assert!(dir.read("state", 10).is_err());
        for name in ["install.log", "startup.log"] {
            dir.create(name).unwrap().write_all(b"log").unwrap();
        }
        dir.replace("state", b"new").unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert_eq!(dir.read("state", 10).unwrap().unwrap(), b"new");
        assert_eq!(dir.read("state", 2).unwrap().unwrap(), b"ne");
        assert_eq!(fs::read(logs.join("install.log")).unwrap(), b"log");
        assert_eq!(dir.read("nothing", 10).unwrap(), None);
        assert!(!logs.join("state.new").exists());
    }

    #[test]
    fn a_directory_that_is_roots_becomes_the_users() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give a directory away");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let logs = root.path().join("logs");
        fs::create_dir(&logs).unwrap();
        fs::set_permissions(&logs, fs::Permissions::from_mode(0o700)).unwrap();
        let user = User { name: "x".into(), uid: 4711, gid: 4712, groups: vec![4712], home: "/".into() };
        LogDir::open(&logs, &user).unwrap();
        let meta = fs::metadata(&logs).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (4711, 4712, 0o755));
        // The user's own mode stays.
        fs::set_permissions(&logs, fs::Permissions::from_mode(0o700)).unwrap();
        LogDir::open(&logs, &user).unwrap();
        assert_eq!(fs::metadata(&logs).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_directory_that_is_a_link_is_refused() {
        let root = tempfile::tempdir().unwrap();
        symlink("/etc", root.path().join("logs")).unwrap();
        let user = crate::exec::users::default("", "", "");
        assert!(LogDir::open(&root.path().join("logs"), &user).is_err());
        fs::create_dir(root.path().join("real")).unwrap();
        fs::create_dir(root.path().join("real/install.log")).unwrap();
        assert!(LogDir::open(&root.path().join("real"), &user).unwrap().create("install.log").is_err());
    }
}
