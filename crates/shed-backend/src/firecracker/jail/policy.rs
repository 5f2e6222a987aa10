//! Decides what confines a machine's Firecracker, of what was asked for and what the host allows. [`confinement`] looks at the
//! host and changes nothing there; the decision itself is without I/O.

use std::{fmt, fs, os::unix::fs::MetadataExt};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};
use shed_net::TapOwner;
use shed_types::NetworkLease;

use super::{
    super::config::{FirecrackerConfig, Jailer, Seccomp},
    Jails,
    interpreter::interpreter,
};
use crate::{CheckHostError, programs::is_program};

/// What Firecracker's program has in its name where the jailer's has [`JAILER`]: both come in one archive.
const FIRECRACKER: &str = "firecracker";

/// The jailer's name.
const JAILER: &str = "jailer";

/// What the jailer's work and ours for it take (man 7 capabilities): mounts and a root directory of its own, device nodes,
/// another user, and that user's files and processes.
const CAPABILITIES: [(CapabilitySet, &str); 8] = [
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::MKNOD, "CAP_MKNOD"),
];

/// How many users there are for machines: as many as there are leases (`shed_net::LeaseIndex`).
const USERS: u32 = 1024;

/// How `/proc/self/uid_map` reads outside of all user namespaces (man 7 user_namespaces).
const ALL_USERS: [&str; 3] = ["0", "0", "4294967295"];

/// What confines a Firecracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Confinement {
    /// A root directory and a user of its own, besides what it does itself.
    Jailer {
        program: JailerProgram,
        /// Whether that includes its filters.
        seccomp: Seccomp,
    },
    /// Its own seccomp filters.
    Seccomp {
        /// Why no jailer.
        reason: String,
    },
    /// Nothing.
    None {
        /// Why no jailer.
        reason: String,
    },
}

/// The jailer and what it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct JailerProgram {
    pub(in super::super) binary: Utf8PathBuf,
    /// Firecracker's program, which it copies into the jail.
    pub(in super::super) firecracker: Utf8PathBuf,
    /// The name of that, which is the name of a directory as well.
    pub(in super::super) name: String,
    /// Where the jails are.
    pub(in super::super) jails: Jails,
    /// User and group of the lease with the index 0.
    pub(super) uid_base: u32,
}

impl JailerProgram {
    /// Returns whom a machine runs as, and its TAP belongs to.
    pub(in super::super) fn owner(&self, lease: Option<&NetworkLease>) -> TapOwner {
        // The policy has seen that there is room for every index.
        let id = self.uid_base.saturating_add(lease.map_or(0, |lease| u32::from(lease.index)));
        TapOwner { uid: id, gid: id }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jailer { program: JailerProgram { binary, uid_base, .. }, seccomp } => {
                let filters = match seccomp {
                    Seccomp::Own => "and seccomp",
                    Seccomp::Off => "without seccomp",
                };
                write!(f, "jailer {filters} ({binary}; uids from {uid_base} on)")
            }
            Self::Seccomp { reason } => write!(f, "seccomp only: {reason}"),
            Self::None { reason } => write!(f, "nothing: firecracker.seccomp is off, and {reason}"),
        }
    }
}

/// What the host allows; an error is the reason why not, as the end of a sentence.
#[derive(Debug, Clone)]
struct Facts {
    privilege: Result<(), String>,
    program: Result<JailerProgram, String>,
    directory: Result<(), String>,
}

/// Finds out what confines the machines whose Firecracker is `firecracker`.
///
/// # Errors
/// When a jailer was asked for that cannot be used.
pub(in super::super) fn confinement(
    config: &FirecrackerConfig,
    firecracker: &Utf8Path,
) -> Result<Confinement, CheckHostError> {
    let facts =
        Facts { privilege: privilege(), program: program(config, firecracker), directory: directory(config) };
    decide(config.jailer, config.seccomp, facts).map_err(|reason| CheckHostError::Jailer { reason })
}

fn decide(wanted: Jailer, seccomp: Seccomp, facts: Facts) -> Result<Confinement, String> {
    let without = |reason| match seccomp {
        Seccomp::Own => Confinement::Seccomp { reason },
        Seccomp::Off => Confinement::None { reason },
    };
    let Facts { privilege, program, directory } = facts;
    let possible = privilege.and(directory).and(program);
    match (wanted, possible) {
        (Jailer::Never, _) => Ok(without("firecracker.jailer is `never`".to_owned())),
        (Jailer::Auto | Jailer::Always, Ok(program)) => Ok(Confinement::Jailer { program, seccomp }),
        (Jailer::Auto, Err(reason)) => Ok(without(reason)),
        (Jailer::Always, Err(reason)) => Err(reason),
    }
}

fn privilege() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("this server is not root".to_owned());
    }
    let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !users.split_whitespace().eq(ALL_USERS) {
        return Err(
            "this server's root is that of a user namespace, which can make no device nodes".to_owned()
        );
    }
    let have = capabilities(None).map_err(|error| format!("its capabilities cannot be read: {error}"))?;
    let lacking = CAPABILITIES.iter().filter(|(capability, _)| !have.effective.contains(*capability));
    let lacking: Vec<&str> = lacking.map(|(_, name)| *name).collect();
    if lacking.is_empty() { Ok(()) } else { Err(format!("this server lacks {}", lacking.join(", "))) }
}

fn program(config: &FirecrackerConfig, firecracker: &Utf8Path) -> Result<JailerProgram, String> {
    let resolved = firecracker
        .canonicalize_utf8()
        .map_err(|error| format!("{firecracker} cannot be resolved: {error}"))?;
    if let Some(linker) =
        interpreter(&resolved).map_err(|error| format!("{resolved} cannot be read: {error}"))?
    {
        return Err(format!(
            "{resolved} needs {linker} and libraries, which are not in a jail; its project's releases are static"
        ));
    }
    let name = resolved.file_name().ok_or_else(|| format!("{resolved} has no name"))?.to_owned();
    let binary = match &config.jailer_binary {
        Some(binary) if binary.is_absolute() && is_program(binary) => binary.clone(),
        Some(binary) => return Err(format!("{binary} (firecracker.jailer_path) is no program")),
        None => beside(firecracker, &resolved, is_program).ok_or_else(|| {
            format!("there is no jailer beside {resolved}; firecracker.jailer_path can say where it is")
        })?,
    };
    let jails = Jails::of(config).ok_or_else(no_directory)?;
    let uid_base = config.jail_uid_base;
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    free_users(uid_base, &read("/etc/passwd"), &read("/etc/subuid"))
        .map_err(|trouble| format!("{trouble}; firecracker.jail_uid_base can name the first of others"))?;
    Ok(JailerProgram { binary, firecracker: resolved, name, jails, uid_base })
}

/// Checks that the machines' users are nobody else's, as far as the files of the system tell (man 5 passwd, man 5 subuid).
fn free_users(first: u32, passwd: &str, subuid: &str) -> Result<(), String> {
    let last = first.checked_add(USERS - 1).filter(|_| first != 0);
    let last = last.ok_or_else(|| format!("there are no {USERS} users from {first} on"))?;
    let users = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?, 1))
    });
    let subordinate = subuid.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    let mut claims = users.chain(subordinate);
    let claim = claims
        .find(|(_, begin, count): &(&str, u32, u32)| *begin <= last && first < begin.saturating_add(*count));
    match claim {
        None => Ok(()),
        Some((name, ..)) => Err(format!(
            "the machines are to have the users from {first} to {last}, of which `{name}` has some already"
        )),
    }
}

/// Finds the jailer beside Firecracker's program or what that is a link to, by its plain name, or by the one that it has in
/// the archive (`jailer-v1.14.1-x86_64`).
fn beside(
    firecracker: &Utf8Path,
    resolved: &Utf8Path,
    is_program: impl Fn(&Utf8Path) -> bool,
) -> Option<Utf8PathBuf> {
    [firecracker, resolved]
        .into_iter()
        .flat_map(|program| {
            let ending = program.file_name().and_then(|name| name.strip_prefix(FIRECRACKER));
            let same = ending.map(|ending| program.with_file_name(format!("{JAILER}{ending}")));
            same.into_iter().chain([program.with_file_name(JAILER)])
        })
        .find(|candidate| is_program(candidate))
}

fn no_directory() -> String {
    "there is no directory for jails; key firecracker.jail_dir".to_owned()
}

fn directory(config: &FirecrackerConfig) -> Result<(), String> {
    look_at(config.jail_dir.as_ref().ok_or_else(no_directory)?)
}

/// Looks at where the jails are to be, or at what is above it when it is not there yet.
fn look_at(jail_dir: &Utf8Path) -> Result<(), String> {
    if !jail_dir.is_absolute() {
        return Err(format!("the directory for jails {jail_dir} is not absolute; key firecracker.jail_dir"));
    }
    let named =
        |trouble: &str| format!("the directory for jails {jail_dir} {trouble}; key firecracker.jail_dir");
    if let Ok(meta) = fs::symlink_metadata(jail_dir) {
        if !meta.is_dir() {
            return Err(named("is none"));
        }
        if meta.uid() != geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(named("can be written to by others"));
        }
    }
    let there = jail_dir.ancestors().find(|path| path.is_dir()).unwrap_or_else(|| Utf8Path::new("/"));
    let mount =
        statvfs(there.as_std_path()).map_err(|error| named(&format!("cannot be looked at ({error})")))?;
    for (flag, trouble) in [
        (StatVfsMountFlags::NODEV, "is mounted `nodev`, but needs device nodes"),
        (StatVfsMountFlags::NOEXEC, "is mounted `noexec`, but needs a program"),
        (StatVfsMountFlags::RDONLY, "is mounted read-only"),
    ] {
        if mount.f_flag.contains(flag) {
            return Err(named(trouble));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn jailer() -> JailerProgram {
        JailerProgram {
            binary: "/opt/jailer".into(),
            firecracker: "/opt/firecracker".into(),
            name: "firecracker".to_owned(),
            jails: Jails::new("/jails".into(), &"a".parse().unwrap()),
            uid_base: 70_000,
        }
    }

    fn facts(privilege: bool, program: bool, directory: bool) -> Facts {
        let fact = |is_so: bool, otherwise: &str| if is_so { Ok(()) } else { Err(otherwise.to_owned()) };
        Facts {
            privilege: fact(privilege, "this server is not root"),
            program: fact(program, "there is no jailer").map(|()| jailer()),
            directory: fact(directory, "the directory is none"),
        }
    }

    #[test]
    fn every_choice_on_every_host() {
        let mut table = String::new();
        for wanted in [Jailer::Auto, Jailer::Always, Jailer::Never] {
            for seccomp in [Seccomp::Own, Seccomp::Off] {
                for (privilege, program, directory) in
                    [(true, true, true), (false, true, true), (true, false, true), (true, true, false)]
                {
                    let decided = decide(wanted, seccomp, facts(privilege, program, directory));
                    let decided =
                        decided.map_or_else(|reason| format!("error: {reason}"), |chosen| chosen.to_string());
                    table.push_str(&format!(
                        "{wanted:?} {seccomp:?} root={privilege} jailer={program} dir={directory} -> {decided}\n"
                    ));
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn each_machine_has_a_user_of_its_own() {
        let lease = |index| NetworkLease {
            index,
            tap_device: "shed-tap".to_owned(),
            ip_address: [172, 30, 0, 2].into(),
        };
        let owner = |index| jailer().owner(Some(&lease(index)));
        assert_eq!((owner(0).uid, owner(0).gid), (70_000, 70_000));
        assert_eq!((owner(7).uid, owner(7).gid), (70_007, 70_007));
        assert_eq!(jailer().owner(None).uid, 70_000);
    }

    #[test]
    fn users_that_somebody_has_are_not_the_machines() {
        let free = |passwd: &str, subuid: &str| free_users(70_000, passwd, subuid);
        free(
            "root:x:0:0::/:/bin/sh\nold:x:69999:1::/:/bin/sh\nnew:x:71024:1::/:/bin/sh\nodd\n:::",
            "a:100000:65536\nb:1",
        )
        .unwrap();
        for (passwd, subuid) in
            [("root:x:0:0::/:\nann:x:71023:1::/:/bin/sh", ""), ("", "ann:65536:65536"), ("", "ann:71023:1")]
        {
            let trouble = free(passwd, subuid).unwrap_err();
            assert!(trouble.contains("`ann`"), "{trouble}");
        }
        assert!(free_users(0, "", "").is_err() && free_users(u32::MAX - 5, "", "").is_err());
    }

    #[test]
    fn the_jailer_is_found_beside_firecracker_by_both_of_its_names() {
        let find = |firecracker: &str, resolved: &str, there: &'static [&'static str]| {
            beside(firecracker.into(), resolved.into(), |path| there.contains(&path.as_str()))
                .map(Utf8PathBuf::into_string)
        };
        let release = "/opt/fc/firecracker-v1.14.1-x86_64";
        assert_eq!(find("/a/firecracker", "/a/firecracker", &["/a/jailer"]).as_deref(), Some("/a/jailer"));
        assert_eq!(
            find("/a/firecracker", release, &["/opt/fc/jailer-v1.14.1-x86_64"]).as_deref(),
            Some("/opt/fc/jailer-v1.14.1-x86_64")
        );
        assert_eq!(find("/a/vmm", release, &["/opt/fc/jailer"]).as_deref(), Some("/opt/fc/jailer"));
        assert_eq!(find("/a/firecracker", "/a/firecracker", &["/b/jailer"]), None);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        assert!(look_at(Utf8Path::new("jails")).unwrap_err().contains("absolute"));
        look_at(&dir.join("not/there/yet")).unwrap();
        let open = dir.join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(look_at(&open).unwrap_err().contains("others"));
        symlink(dir, dir.join("link")).unwrap();
        assert!(look_at(&dir.join("link")).unwrap_err().contains("is none"));
    }
}
