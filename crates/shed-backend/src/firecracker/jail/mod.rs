//! Jails: Firecracker's jailer gives a machine's Firecracker a root directory, a user and device nodes of its own, and then
//! becomes that Firecracker, with the same process id. Called by the backend, for hosts where [`policy`] allows it.
//!
//! A jail is `<jail_dir>/server-<id>/<shed>/<program>/<launch id>/root`, of which the jailer chooses the last three parts. So
//! its path tells whose it is, without a record that could be lost. What the machine needs has links in it ([`furnish`]), and
//! all of it goes with the machine ([`remove`]). The jailer makes no cgroup unless it is asked to, and mounts only where the machine alone
//! sees it; it closes every descriptor but the standard streams, which is why the lock of the machine's own disk is its
//! standard input: it reads nothing there, but its end is what unlocks the disk, whoever ends it and however.

mod furnish;
mod interpreter;
mod policy;
mod remove;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    },
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Uid, chmodat, chownat, fstat, openat, renameat, unlinkat},
    io::Errno,
};
use shed_net::{ServerId, TapOwner};
use shed_types::{LaunchId, ShedName};
use tokio::net::UnixListener;

pub(super) use self::{
    furnish::{furnish, metrics_inside},
    policy::{Confinement, JailerProgram, confinement},
};
use super::{config::FirecrackerConfig, reach, sockets::SocketPaths};
use crate::socket_names::{make_dir, stem};

/// The jail's root directory in it.
const ROOT: &str = "root";

/// Name of a socket before it is in its place.
const NEW_SOCKET: &str = "ready";

/// The jails of one server's machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jails {
    dir: Utf8PathBuf,
}

/// The jail of one launch, whether it is there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jail {
    /// `<jail_dir>/server-<id>/<shed>`.
    of_shed: Utf8PathBuf,
    /// What the jailer takes for its program's name: a directory of it.
    program: String,
    launch_id: LaunchId,
}

/// Returns the sockets of a jailed machine as it sees them.
pub(super) fn sockets_inside(shed: &ShedName) -> SocketPaths {
    SocketPaths::new(Utf8Path::new("/"), shed)
}

impl Jails {
    /// Returns where the jails of a server are, if it has any; looks at nothing.
    pub(super) fn of(config: &FirecrackerConfig) -> Option<Self> {
        Some(Self::new(config.jail_dir.as_ref()?, config.network.server()))
    }

    fn new(dir: &Utf8Path, server: &ServerId) -> Self {
        // With a word in front of it no id is a path.
        Self { dir: dir.join(format!("server-{server}")) }
    }

    /// Returns the directory of this server's jails.
    pub(super) fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    fn of_shed(&self, shed: &ShedName) -> Utf8PathBuf {
        self.dir.join(stem(shed))
    }

    /// Names the jail of a launch, for a Firecracker whose program has this name.
    pub(super) fn jail(&self, shed: &ShedName, launch_id: LaunchId, program: &str) -> Jail {
        Jail { of_shed: self.of_shed(shed), program: program.to_owned(), launch_id }
    }

    /// Finds the jail of a launch, by whatever name Firecracker's program had then.
    ///
    /// # Errors
    /// When it cannot be looked for.
    pub(super) fn find(&self, shed: &ShedName, launch_id: LaunchId) -> io::Result<Option<Jail>> {
        let of_shed = self.of_shed(shed);
        let programs = match of_shed.read_dir_utf8() {
            Ok(programs) => programs,
            Err(error) if is_not_ours(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        for program in programs {
            let program = program?.file_name().to_owned();
            let jail = Jail { of_shed: of_shed.clone(), program, launch_id };
            if jail.root().symlink_metadata().is_ok() {
                return Ok(Some(jail));
            }
        }
        Ok(None)
    }

    /// Removes all jails of a shed, of which none may have a machine. Blocks.
    ///
    /// # Errors
    /// When something stays.
    pub(super) fn remove(&self, shed: &ShedName) -> io::Result<()> {
        Self::remove_all_in(&self.of_shed(shed))
    }

    /// Removes the jails of sheds that are none of `sheds`. Blocks.
    ///
    /// # Errors
    /// When something stays.
    pub(super) fn remove_strays(&self, sheds: &BTreeSet<ShedName>) -> io::Result<()> {
        let entries = match self.dir.read_dir_utf8() {
            Ok(entries) => entries,
            Err(error) if is_not_ours(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let known: BTreeSet<String> = sheds.iter().map(stem).collect();
        for entry in entries {
            let entry = entry?;
            if !known.contains(entry.file_name()) {
                tracing::info!(path = %entry.path(), "removing the jails of a shed that is gone");
                Self::remove_all_in(entry.path())?;
            }
        }
        Ok(())
    }

    fn remove_all_in(of_shed: &Utf8Path) -> io::Result<()> {
        let Some(opened) = open_locked(of_shed)? else { return Ok(()) };
        for program in remove::directories(opened.as_fd())? {
            for home in remove::directories(program.as_fd())? {
                remove::empty(home.as_fd(), Some(lent_to(&home)?))?;
            }
        }
        remove::empty(opened.as_fd(), None)?;
        gone(fs::remove_dir(of_shed))
    }
}

impl Jail {
    fn home(&self) -> Utf8PathBuf {
        self.of_shed.join(&self.program).join(self.launch_id.to_string())
    }

    /// Returns the machine's root directory.
    pub(super) fn root(&self) -> Utf8PathBuf {
        self.home().join(ROOT)
    }

    /// Returns the machine's sockets as the host sees them.
    pub(super) fn sockets(&self, shed: &ShedName) -> SocketPaths {
        SocketPaths::new(&self.root(), shed)
    }

    /// Makes the socket that the machine's agent connects to, for whom the jail belongs to.
    ///
    /// It is made where the machine cannot reach, and moved into the jail when it is as it must be. So the machine has no
    /// moment to put something else into its place, and one that is there already is replaced.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn listen(&self, sockets: &SocketPaths) -> io::Result<UnixListener> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let home = File::from(openat(rustix::fs::CWD, self.home().as_std_path(), flags, Mode::empty())?);
        let root = File::from(openat(&home, ROOT, flags, Mode::empty())?);
        let owner = root.metadata()?;
        match unlinkat(&home, NEW_SOCKET, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let listener = reach::listen_in(home.as_fd(), NEW_SOCKET)?;
        let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        chmodat(&home, NEW_SOCKET, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
        chownat(&home, NEW_SOCKET, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        let name = sockets.ready.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        if let Err(error) = renameat(&home, NEW_SOCKET, &root, name) {
            // A machine must not be able to keep a server from finding it and ending it.
            tracing::warn!(path = %sockets.ready, %error, "an agent cannot say that it is there; it is asked now and then");
        }
        Ok(listener)
    }

    /// Removes it; its machine must have ended. Blocks.
    ///
    /// # Errors
    /// When something stays.
    pub(super) fn remove(&self) -> io::Result<()> {
        let Some(_lock) = open_locked(&self.of_shed)? else { return Ok(()) };
        let Some(home) = open(&self.home())? else { return Ok(()) };
        remove::empty(home.as_fd(), Some(lent_to(&home)?))?;
        gone(fs::remove_dir(self.home()))?;
        // Other launches may have theirs beside it.
        for directory in [self.of_shed.join(&self.program), self.of_shed.clone()] {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
                result => gone(result)?,
            }
        }
        Ok(())
    }
}

/// A jail until there is a machine that has it.
#[derive(Debug)]
pub(super) struct JailGuard(Option<Jail>);

impl JailGuard {
    /// For a machine without one.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Before it is made: what is half made goes as well.
    pub(super) const fn new(jail: Jail) -> Self {
        Self(Some(jail))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for JailGuard {
    fn drop(&mut self) {
        let Some(jail) = self.0.take() else { return };
        // It is some files that nobody has used. Whoever ends before this leaves it to `remove_leftovers`.
        if let Err(error) = jail.remove() {
            tracing::warn!(path = %jail.home(), %error, "the jail of a failed start is left over");
        }
    }
}

/// Makes the directories of a jail, for ourselves alone. Nothing is in the last one yet.
fn make(jail: &Jail, owner: TapOwner) -> io::Result<()> {
    let home = jail.home();
    make_dir(&home)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
    // The record of whom files are lent to, which lets nobody in.
    chown(&home, None, Some(owner.uid))?;
    make_dir(&jail.root())?;
    // The jailer does it as well, but whose the jail is must be known before.
    chown(jail.root(), Some(owner.uid), Some(owner.gid))
}

/// Returns the user to whom the files in a jail are lent.
fn lent_to(home: &OwnedFd) -> io::Result<u32> {
    Ok(fstat(home)?.st_gid)
}

/// Whether there are no jails of ours: none at all, or only those that a server with more rights has made.
fn is_not_ours(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// Opens a directory that is no link, if it is there and ours.
fn open(directory: &Utf8Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(directory);
    match opened {
        Ok(opened) => Ok(Some(opened.into())),
        Err(error) if is_not_ours(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the directory of a shed's jails for whoever removes something of it: one at a time.
fn open_locked(directory: &Utf8Path) -> io::Result<Option<File>> {
    let Some(opened) = open(directory)? else { return Ok(None) };
    let opened = File::from(opened);
    opened.lock()?;
    Ok(Some(opened))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jails(dir: &tempfile::TempDir) -> Jails {
        let dir = Utf8Path::from_path(dir.path()).unwrap().join("jails");
        Jails::new(&dir, &ServerId::of_directory("/instances"))
    }

    const PROGRAM: &str = "firecracker-v1";

    #[tokio::test]
    async fn a_jail_is_found_by_its_launch_and_goes_alone() {
        let dir = tempfile::tempdir().unwrap();
        let jails = jails(&dir);
        let (shed, one, two) = ("api".parse().unwrap(), LaunchId::generate(), LaunchId::generate());
        for launch in [one, two] {
            make(&jails.jail(&shed, launch, PROGRAM), TapOwner::this_process()).unwrap();
        }
        assert_eq!(jails.find(&"web".parse().unwrap(), one).unwrap(), None);
        assert_eq!(jails.find(&shed, LaunchId::generate()).unwrap(), None);
        let jail = jails.find(&shed, one).unwrap().unwrap();
        assert_eq!(jail, jails.jail(&shed, one, PROGRAM));

        // Twice: the second time, as a new server does it, with the old socket in its place.
        for _ in 0..2 {
            let sockets = jail.sockets(&shed);
            let listener = jail.listen(&sockets).unwrap();
            let (connected, accepted) = tokio::join!(reach::connect(&sockets.ready), listener.accept());
            drop((connected.unwrap(), accepted.unwrap()));
        }
        jail.remove().unwrap();
        jail.remove().unwrap();
        assert_eq!(jails.find(&shed, one).unwrap(), None);
        assert!(jails.find(&shed, two).unwrap().is_some());
        jails.remove_strays(&[shed.clone()].into()).unwrap();
        assert!(jails.find(&shed, two).unwrap().is_some());
        jails.remove_strays(&BTreeSet::new()).unwrap();
        jails.remove_strays(&BTreeSet::new()).unwrap();
        assert_eq!(jails.find(&shed, two).unwrap(), None);
        make(&jails.jail(&shed, two, PROGRAM), TapOwner::this_process()).unwrap();
        jails.remove(&shed).unwrap();
        jails.remove(&shed).unwrap();
        assert_eq!(fs::read_dir(&jails.dir).unwrap().count(), 0);
        make(&jail, TapOwner::this_process()).unwrap();
        jail.remove().unwrap();
        assert_eq!(fs::read_dir(&jails.dir).unwrap().count(), 0, "nothing of an only jail stays");
    }

    #[tokio::test]
    async fn a_jail_whose_machine_is_hostile_gives_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let jails = jails(&dir);
        let shed = "api".parse().unwrap();
        let jail = jails.jail(&shed, LaunchId::generate(), PROGRAM);
        make(&jail, TapOwner::this_process()).unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "").unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o640)).unwrap();
        let sockets = jail.sockets(&shed);
        std::os::unix::fs::symlink(&victim, &sockets.ready).unwrap();
        let _listener = jail.listen(&sockets).unwrap();
        assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o777, 0o640);
        fs::remove_file(&sockets.ready).unwrap();
        fs::create_dir_all(sockets.ready.join("in the way")).unwrap();
        let _listener = jail.listen(&sockets).unwrap();
        assert!(sockets.ready.is_dir(), "what is in the way is not looked into");
        // Nor does a jail lead elsewhere whose place another has taken.
        jails.remove(&shed).unwrap();
        std::os::unix::fs::symlink(dir.path(), jails.dir.join("api")).unwrap();
        assert!(jails.remove(&shed).is_err() && jail.remove().is_err());
        assert!(victim.exists());
    }
}
