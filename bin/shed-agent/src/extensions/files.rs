//! What the tools of a guest need to find the extensions: names on PATH, and variables (spec J.3).
//!
//! Everything here is done again with each change and leaves alone what somebody else has put there. What was enabled and
//! is not any more is taken back, after a restart of the shed, too: so it is known by what it is, not by a record.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use shed_types::Namespace;

use crate::{exec::users::User, whole_file};

/// The program in the guest.
pub(super) const PROGRAM: &str = "/run/shed/bin/shed-ext";

/// Where its names are, below the root.
const NAMES: &str = "usr/local/bin";

/// Variables for services and for what the agent runs (environment.d(5)).
const ENVIRONMENT: &str = "etc/environment.d/shed-extensions.conf";

/// Variables for logins that the agent does not run.
const PROFILE: &str = "etc/profile.d/shed-extensions.sh";

/// First line of both: a file without it is somebody else's.
const MARK: &str = "# Written by shed-agent: what the server enables. Edits do not last.\n";

/// Units of Shed's own that run as the user.
const OWN_UNITS: [&str; 2] = ["shed-ssh-agent.service", "shed-aws-proxy.service"];

/// A variable and its value.
type Variable = (&'static str, &'static str);

/// What each of Shed's own extensions has in the guest: its program's name, and its variable.
const OWN: [(&str, &str, Option<Variable>); 3] = [
    ("ssh-agent", "shed-ssh-agent", Some(("SSH_AUTH_SOCK", "/run/shed-extensions/ssh-agent.sock"))),
    (
        "aws-credentials",
        "shed-aws-proxy",
        Some(("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:499/credentials")),
    ),
    ("docker-credentials", "docker-credential-shed", None),
];

/// Puts in place what the enabled extensions need, and takes back the rest. Returns what could not be done.
pub(super) fn apply(root: &Path, enabled: &BTreeSet<Namespace>, owner: &User) -> Vec<String> {
    let is_enabled = |name: &str| enabled.iter().any(|namespace| namespace.as_str() == name);
    let mut problems = Vec::new();
    let mut note = |what: &Path, done: io::Result<()>| {
        if let Err(error) = done {
            problems.push(format!("{}: {error}", what.display()));
        }
    };
    let any = OWN.iter().any(|(namespace, ..)| is_enabled(namespace));
    let names = OWN.iter().map(|(namespace, name, _)| (*name, is_enabled(namespace)));
    for (name, wanted) in names.chain([("shed-ext", any)]) {
        let path = root.join(NAMES).join(name);
        let done = if wanted { link(&path) } else { unlink(&path) };
        note(&path, done);
    }
    let variables: Vec<_> =
        OWN.iter().filter(|(namespace, ..)| is_enabled(namespace)).filter_map(|own| own.2).collect();
    let lines = |line: fn(&str, &str) -> String| -> String {
        variables.iter().map(|(name, value)| line(name, value)).collect()
    };
    let environment = lines(|name, value| format!("{name}={value}\n"));
    // A login may bring its own, as with `ssh -A`.
    let profile = lines(|name, value| format!("export {name}=\"${{{name}:-{value}}}\"\n"));
    for (path, content) in [(ENVIRONMENT, environment), (PROFILE, profile)] {
        let path = root.join(path);
        note(&path, variables_file(&path, &content));
    }
    for unit in OWN_UNITS {
        let path = root.join("run/systemd/system").join(format!("{unit}.d")).join("user.conf");
        note(&path, unit_user(&path, owner));
    }
    problems
}

fn link(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match symlink(PROGRAM, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !is_ours(path) => {
            Err(io::Error::other("something else has this name and is left as it is"))
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn unlink(path: &Path) -> io::Result<()> {
    if is_ours(path) { fs::remove_file(path) } else { Ok(()) }
}

fn is_ours(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new(PROGRAM))
}

/// Writes a file of variables, or removes it when there are none.
fn variables_file(path: &PathBuf, content: &str) -> io::Result<()> {
    let old = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        old => Some(old?),
    };
    let ours = old.as_ref().is_none_or(|old| old.starts_with(MARK.as_bytes()));
    match (content.is_empty(), ours) {
        (true, true) if old.is_some() => fs::remove_file(path),
        (true, _) => Ok(()),
        (false, true) => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            whole_file::replace(path, format!("{MARK}{content}").as_bytes(), 0o644)
        }
        (false, false) => {
            Err(io::Error::other("somebody else has written this file, and it is left as it is"))
        }
    }
}

/// Has a unit run as who runs commands in this shed, where that is not `shed` as the unit says: the socket is theirs alone.
fn unit_user(path: &Path, owner: &User) -> io::Result<()> {
    if owner.name == crate::exec::users::DEFAULT_USER {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let content = format!("[Service]\nUser={}\nGroup={}\n", owner.uid, owner.gid);
    whole_file::replace(path, content.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> User {
        User { name: name.into(), uid: 1001, gid: 1002, groups: vec![1002], home: "/home/x".into() }
    }

    fn set(names: &[&str]) -> BTreeSet<Namespace> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn read(root: &Path, path: &str) -> Option<String> {
        fs::read_to_string(root.join(path)).ok()
    }

    fn links(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root.join(NAMES)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_enabled_is_there_and_what_is_not_any_more_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let all = set(&["ssh-agent", "aws-credentials", "docker-credentials", "mine"]);
        for _ in 0..2 {
            assert!(apply(root, &all, &owner("shed")).is_empty());
        }
        assert_eq!(links(root), ["docker-credential-shed", "shed-aws-proxy", "shed-ext", "shed-ssh-agent"]);
        assert_eq!(fs::read_link(root.join(NAMES).join("shed-ext")).unwrap(), Path::new(PROGRAM));
        assert!(
            read(root, ENVIRONMENT)
                .unwrap()
                .contains("\nAWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:499/")
        );
        let profile = "export SSH_AUTH_SOCK=\"${SSH_AUTH_SOCK:-/run/shed-extensions/ssh-agent.sock}\"\n";
        assert!(read(root, PROFILE).unwrap().contains(profile));

        assert!(apply(root, &set(&["ssh-agent"]), &owner("node")).is_empty());
        assert_eq!(links(root), ["shed-ext", "shed-ssh-agent"]);
        let expected = format!("{MARK}SSH_AUTH_SOCK=/run/shed-extensions/ssh-agent.sock\n");
        assert_eq!(read(root, ENVIRONMENT).unwrap(), expected);
        let user = "run/systemd/system/shed-ssh-agent.service.d/user.conf";
        assert_eq!(read(root, user).unwrap(), "[Service]\nUser=1001\nGroup=1002\n");

        assert!(apply(root, &set(&["mine"]), &owner("shed")).is_empty());
        assert!(links(root).is_empty());
        assert_eq!((read(root, ENVIRONMENT), read(root, PROFILE), read(root, user)), (None, None, None));
    }

    #[test]
    fn a_guest_that_never_had_any_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        assert!(apply(root.path(), &set(&[]), &owner("shed")).is_empty());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_somebody_else_has_put_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for directory in [NAMES, "etc/environment.d", "etc/profile.d"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join(NAMES).join("shed-ext"), "mine").unwrap();
        symlink("/elsewhere", root.join(NAMES).join("shed-ssh-agent")).unwrap();
        fs::write(root.join(ENVIRONMENT), "SSH_AUTH_SOCK=/mine\n").unwrap();
        for enabled in [set(&["ssh-agent"]), set(&[])] {
            let problems = apply(root, &enabled, &owner("shed"));
            assert_eq!(problems.len(), if enabled.is_empty() { 0 } else { 3 }, "{problems:?}");
            assert_eq!(read(root, "usr/local/bin/shed-ext").unwrap(), "mine");
            assert_eq!(
                fs::read_link(root.join(NAMES).join("shed-ssh-agent")).unwrap(),
                Path::new("/elsewhere")
            );
            assert_eq!(read(root, ENVIRONMENT).unwrap(), "SSH_AUTH_SOCK=/mine\n");
        }
    }
}
