//! Files below /workspace that a repository names: they are opened as the user, and no link leads out.

use std::{
    fs::{File, Permissions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::{
    as_user::{AsUserError, as_user},
    provision::HookPath,
};
use crate::exec::users::User;

/// Where the project says what to run, below /workspace.
pub(super) const PROVISION: &str = ".shed/provision.yaml";

/// Longest provision.yaml, in bytes.
const MAX_PROVISION: u64 = 256 << 10;

/// Longest script of a hook, in bytes: all of it is read for its hash.
const MAX_SCRIPT: u64 = 16 << 20;

/// How long a file of a share may take to show up after the mount (upstream pitfall), and how often one looks: a share
/// tells nobody of new files.
const LATE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

/// How long the file system may take for any of this.
const ANSWER: Duration = Duration::from_secs(30);

/// Says why a file of the workspace cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("it is not there")]
    Missing,
    #[error("a link leads out of the workspace there")]
    LeadsOut,
    #[error("it is no file")]
    NoFile,
    #[error("it is longer than {} kB", .0 >> 10)]
    TooLong(u64),
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    User(#[from] AsUserError),
}

impl From<Errno> for FileError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::Missing,
            Errno::XDEV => Self::LeadsOut,
            _ => Self::Io(error.into()),
        }
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads provision.yaml; nothing when there is none.
pub(super) async fn read_provision(workspace: &Path, user: &User) -> Result<Option<Vec<u8>>, FileError> {
    let late = Instant::now() + LATE;
    loop {
        let place = workspace.to_owned();
        // A share may hang, so even the question whether it is one is left to the thread.
        let (content, is_mount) = as_user(user, ANSWER, move || (read(&place), is_mount(&place))).await?;
        match content {
            Ok(content) => return Ok(Some(content)),
            Err(FileError::Missing) if is_mount && Instant::now() < late => sleep(LOOK).await,
            Err(FileError::Missing) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn read(workspace: &Path) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    open(workspace, PROVISION)?.take(MAX_PROVISION + 1).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > MAX_PROVISION) {
        return Err(FileError::TooLong(MAX_PROVISION));
    }
    Ok(content)
}

/// Sees that a hook's script is a file of the workspace, makes it executable where that can be done, and returns the hash of
/// its content in hex.
pub(super) async fn prepare(workspace: &Path, hook: &HookPath, user: &User) -> Result<String, FileError> {
    let (place, path) = (workspace.to_owned(), hook.as_str().to_owned());
    let work = move || {
        let file = open(&place, &path)?;
        let meta = file.metadata()?;
        if meta.len() > MAX_SCRIPT {
            return Err(FileError::TooLong(MAX_SCRIPT));
        }
        let mode = meta.permissions().mode();
        // Whoever may read it may run it. Files of others and of shares may refuse, and are run by a shell then.
        let executable = mode | ((mode & 0o444) >> 2);
        if executable != mode {
            let _refused = file.set_permissions(Permissions::from_mode(executable & 0o7777));
        }
        // It may grow meanwhile.
        let mut file = file.take(MAX_SCRIPT);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                length => hash.update(&buffer[..length]),
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    as_user(user, ANSWER, work).await?
}

/// Opens a file beneath the workspace; to be called as the user.
fn open(workspace: &Path, path: &str) -> Result<File, FileError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, workspace, flags, Mode::empty())?;
    // A pipe or a device must not hold whoever opens it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file: File = loop {
        // With BENEATH the kernel says this when a directory was renamed meanwhile (openat2(2)).
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => break result?.into(),
        }
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(FileError::NoFile) }
}

fn is_mount(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn workspace() -> (tempfile::TempDir, User) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".shed")).unwrap();
        (dir, crate::exec::users::default("", "", ""))
    }

    #[tokio::test]
    async fn it_is_read_where_it_is_a_file_and_nowhere_else() {
        let (dir, user) = workspace();
        let file = dir.path().join(PROVISION);
        assert!(read_provision(dir.path(), &user).await.unwrap().is_none());
        fs::write(&file, "hooks:\n").unwrap();
        assert_eq!(read_provision(dir.path(), &user).await.unwrap().unwrap(), b"hooks:\n");
        fs::write(&file, vec![b'#'; 300 << 10]).unwrap();
        assert!(matches!(read_provision(dir.path(), &user).await, Err(FileError::TooLong(_))));

        for (target, leads_out) in [("/etc/passwd", true), ("../../etc/passwd", true), ("../real", false)] {
            fs::remove_file(&file).unwrap();
            fs::write(dir.path().join("real"), "env:\n").unwrap();
            symlink(target, &file).unwrap();
            let read = read_provision(dir.path(), &user).await;
            assert_eq!(matches!(read, Err(FileError::LeadsOut)), leads_out, "{target}: {read:?}");
            assert_eq!(read.is_ok_and(|text| text.is_some()), !leads_out, "{target}");
        }
        fs::remove_file(&file).unwrap();
        symlink("provision.yaml", &file).unwrap();
        assert!(matches!(read_provision(dir.path(), &user).await, Err(FileError::Io(_))));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(matches!(read_provision(dir.path(), &user).await, Err(FileError::NoFile)));
        fs::remove_dir(&file).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(made.success());
        assert!(matches!(read_provision(dir.path(), &user).await, Err(FileError::NoFile)));
        fs::remove_dir_all(dir.path().join(".shed")).unwrap();
        symlink("/etc", dir.path().join(".shed")).unwrap();
        assert!(matches!(read_provision(dir.path(), &user).await, Err(FileError::LeadsOut)));
    }

    #[tokio::test]
    async fn a_script_becomes_executable_for_those_who_may_read_it() {
        let (dir, user) = workspace();
        let script = dir.path().join("install.sh");
        fs::write(&script, "abc").unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o640)).unwrap();
        let Ok((provision, _)) = super::super::provision::parse(b"hooks: {install: install.sh}") else {
            panic!("it is good")
        };
        let hash = prepare(dir.path(), &provision.install.unwrap(), &user).await.unwrap();
        // FIPS 180-2, B.1.
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o7777, 0o750);
        let Ok((provision, _)) = super::super::provision::parse(b"hooks: {install: install.sh}") else {
            panic!("it is good")
        };
        File::options().write(true).open(&script).unwrap().set_len(MAX_SCRIPT + 1).unwrap();
        let refused = prepare(dir.path(), &provision.install.unwrap(), &user).await;
        assert!(matches!(refused, Err(FileError::TooLong(_))), "{refused:?}");
    }
}
