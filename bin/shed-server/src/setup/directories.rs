//! The directories that the configuration names, made for the server's user.
//!
//! One that is there is left as it is, and only looked at. One in the user's own directories is made as that user, so that no
//! link there leads root astray. Elsewhere root makes it, but only below directories that nobody else can change meanwhile.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
};

use camino::Utf8Path;
use rustix::fs::{Access, access};

use crate::{
    account::{Account, not_as},
    config::{CommonSection, Config},
    step::Step,
};

/// Mode of directories of root's on the way to one that is made for somebody.
const WAY: u32 = 0o755;

/// Bits of a mode that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// A directory that is made at the latest when the server needs it.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    item: &'static str,
    path: &'a Utf8Path,
    mode: u32,
    /// Mode of those on the way that are missing, in the user's own directories.
    way: u32,
}

/// Returns a step for each directory.
pub(super) fn make_all(config: &Config, section: &CommonSection, account: &Account) -> Vec<Step> {
    let mut wanted = vec![
        // Tools of other users read images.
        Wanted { item: "images", path: &section.images_dir, mode: 0o755, way: 0o755 },
        // A confined VMM has its way through, and nobody a list of sheds.
        Wanted { item: "instances", path: &section.instance_dir, mode: 0o711, way: 0o755 },
        // Whoever can use the sockets in it controls the machines.
        Wanted { item: "sockets", path: &section.socket_dir, mode: 0o700, way: 0o700 },
    ];
    // Only to make a key: one that is there is never written to.
    if let Some(path) = config.ssh_host_key.parent().filter(|_| !config.ssh_host_key.exists()) {
        wanted.push(Wanted { item: "SSH host key", path, mode: 0o700, way: 0o700 });
    }
    wanted.into_iter().map(|wanted| make(wanted, account)).collect()
}

/// Who makes a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Nobody,
    TheUser,
    Root,
}

fn make(wanted: Wanted<'_>, account: &Account) -> Step {
    let Wanted { item, path, mode, way } = wanted;
    let by_hand = format!("sudo install -d -m {mode:04o} -o {} '{path}'", account.name);
    let there = nearest(path);
    let may_write =
        match account.act(|| access(there.as_std_path(), Access::WRITE_OK | Access::EXEC_OK).is_ok()) {
            Ok(may_write) => may_write,
            Err(error) => return Step::failed(item, not_as(account, &error)),
        };
    let made = match maker(path == there, may_write, &ancestors(there)) {
        Ok(Maker::Nobody) => {
            return Step::was_so(item, format!("{path} is there, and {} may write to it", account.name));
        }
        Ok(Maker::TheUser) => account.act(|| build(path, mode, way)).unwrap_or_else(Err),
        Ok(Maker::Root) => {
            build(path, mode, WAY).and_then(|()| chown(path, Some(account.uid), Some(account.gid)))
        }
        Err(problem) => return Step::failed(item, format!("{there} {problem}")).hint(by_hand),
    };
    match made {
        Ok(()) => Step::done(item, format!("{path} is made for {}", account.name)),
        Err(error) => Step::failed(item, format!("{path} could not be made: {error}")).hint(by_hand),
    }
}

/// What is known of a directory on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OnTheWay {
    uid: u32,
    mode: u32,
    is_dir: bool,
}

/// Decides. `ways` are what is there of the path, the last first.
///
/// # Errors
/// When nobody may, as the end of a sentence about the last of what is there.
fn maker(is_there: bool, may_write: bool, ways: &[OnTheWay]) -> Result<Maker, &'static str> {
    if ways.first().is_some_and(|way| !way.is_dir) {
        return Err("is no directory");
    }
    match (is_there, may_write) {
        (true, true) => Ok(Maker::Nobody),
        (true, false) => Err("is there, and the user may not write to it"),
        (false, true) => Ok(Maker::TheUser),
        (false, false) if ways.iter().all(|way| way.uid == 0 && way.mode & OTHERS_WRITE == 0) => {
            Ok(Maker::Root)
        }
        (false, false) => Err("is neither the user's to write to nor root's alone"),
    }
}

/// Returns what is known of each directory from here to the root. One that cannot be looked at is nobody's.
fn ancestors(there: &Utf8Path) -> Vec<OnTheWay> {
    let unknown = OnTheWay { uid: u32::MAX, mode: OTHERS_WRITE, is_dir: true };
    let look = |path: &Utf8Path| match fs::metadata(path) {
        Ok(found) => OnTheWay { uid: found.uid(), mode: found.mode(), is_dir: found.is_dir() },
        Err(_) => unknown,
    };
    there.ancestors().map(look).collect()
}

/// Returns the path, or what is there of those above it. A link that leads nowhere is there.
fn nearest(path: &Utf8Path) -> &Utf8Path {
    path.ancestors().find(|ancestor| fs::symlink_metadata(ancestor).is_ok()).unwrap_or(Utf8Path::new("/"))
}

fn build(path: &Utf8Path, mode: u32, way: u32) -> io::Result<()> {
    if let Some(above) = path.parent() {
        DirBuilder::new().recursive(true).mode(way).create(above)?;
    }
    DirBuilder::new().mode(mode).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::step::Outcome;

    const ROOTS: OnTheWay = OnTheWay { uid: 0, mode: 0o40755, is_dir: true };

    #[test]
    fn root_makes_only_what_nobody_else_can_turn_elsewhere() {
        assert_eq!(maker(false, false, &[ROOTS, ROOTS]), Ok(Maker::Root));
        for other in [
            OnTheWay { uid: 1000, ..ROOTS },
            OnTheWay { mode: 0o41777, ..ROOTS },
            OnTheWay { mode: 0o40775, ..ROOTS },
        ] {
            assert!(maker(false, false, &[ROOTS, other]).is_err(), "{other:?}");
            assert!(maker(false, false, &[other, ROOTS]).is_err(), "{other:?}");
            assert_eq!(maker(false, true, &[other, ROOTS]), Ok(Maker::TheUser));
        }
        assert_eq!(maker(true, true, &[ROOTS]), Ok(Maker::Nobody));
        assert!(maker(true, false, &[ROOTS]).is_err());
        assert!(maker(false, true, &[OnTheWay { is_dir: false, ..ROOTS }]).is_err());
    }

    #[test]
    fn a_directory_is_made_once_and_one_that_is_there_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let account = Account { name: "me".into(), uid, gid, groups: vec![gid], home: dir.to_owned() };
        let path = dir.join("a b/'c'/instances");
        let wanted = Wanted { item: "instances", path: &path, mode: 0o711, way: 0o700 };
        let step = make(wanted, &account);
        assert_eq!(step.outcome, Outcome::Done, "{step}");
        let mode = |path: &Utf8Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir.join("a b"))), (0o711, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let step = make(wanted, &account);
        assert_eq!((step.outcome, mode(&path)), (Outcome::WasSo, 0o777));
        // A link to nowhere is not replaced, and nothing is made where it points.
        let link = dir.join("link");
        std::os::unix::fs::symlink(dir.join("nowhere"), &link).unwrap();
        let step = make(Wanted { path: &link, ..wanted }, &account);
        assert_eq!(step.outcome, Outcome::Failed, "{step}");
        assert!(!dir.join("nowhere").exists());
    }
}
