//! The command line of the process that serves one directory: a pure function.
//!
//! Whoever asks in the guest, the host sees one user: the one whom the directory belongs to (see [`Cage`]). Files of that
//! user are [`GUEST_ID`]'s in the guest, files of anybody else are nobody's. So what root or `shed` makes in the guest
//! belongs to the directory's owner, and a chown in the guest changes nothing.

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ShedName;

use super::{super::sockets::SocketPaths, ShareCache};
use crate::DiskAccess;

/// User and group in the guest to whom the files belong: `shed`, as every image has it (spec C.1).
const GUEST_ID: u32 = 1000;

/// Linux's user and group for those that cannot be told (Documentation/admin-guide/sysctl/fs.rst, `overflowuid`).
const NOBODY: u32 = 65534;

/// One more than the greatest id (id -1 means "no change" to chown).
const IDS: u32 = u32::MAX;

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub uid: u32,
    pub gid: u32,
}

impl Ids {
    pub(super) const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// What keeps the process in the directory and makes it one user. Only these three confine it: without a root directory
/// of its own a hostile guest could name `../x`, which virtiofsd takes as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cage {
    /// It runs as this user, and is root only in a user namespace that knows nobody else.
    User(Ids),
    /// It runs as root in a mount namespace with the directory as its root, and acts as this user where files are made.
    Root(Ids),
    /// As [`Cage::Root`], but with no more than a changed root directory.
    Chroot(Ids),
}

impl Cage {
    /// Returns the cages to try for a directory of `owner`, the strictest first.
    pub(super) fn choices(server: Ids, owner: Ids) -> Vec<Self> {
        match (server.uid, owner.uid) {
            (0, 0) => vec![Self::Root(Ids::ROOT), Self::Chroot(Ids::ROOT)],
            (0, _) => vec![Self::User(owner), Self::Root(owner), Self::Chroot(owner)],
            // Nobody but root can act as somebody else.
            (_, _) => vec![Self::User(server)],
        }
    }

    /// Returns what the process is in a word or two, for logs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::User(_) => "in a user namespace",
            Self::Root(_) => "as root in a mount namespace",
            Self::Chroot(_) => "as root in a changed root directory",
        }
    }

    /// Returns whom the files belong to, as the process itself sees it.
    const fn seen(self) -> Ids {
        match self {
            Self::User(_) => Ids::ROOT,
            Self::Root(ids) | Self::Chroot(ids) => ids,
        }
    }
}

/// One process's options.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options<'a> {
    /// The directory, without symbolic links.
    pub source: &'a Utf8Path,
    pub access: DiskAccess,
    pub cage: Cage,
    pub cache: ShareCache,
    /// Descriptor of the listening socket.
    pub listener_fd: i32,
}

/// Returns the arguments, without the program itself. Versions 1.13 and 1.14 understand them alike.
pub(super) fn arguments(options: &Options<'_>) -> Vec<String> {
    let mut args = vec![format!("--fd={}", options.listener_fd), format!("--shared-dir={}", options.source)];
    let mut add = |arg: String| args.push(arg);
    match options.cage {
        Cage::User(Ids { uid, gid }) => {
            add("--sandbox=namespace".to_owned());
            // One id each needs no helper and no /etc/subuid.
            add(format!("--uid-map=:0:{uid}:1:"));
            add(format!("--gid-map=:0:{gid}:1:"));
        }
        Cage::Root(_) => add("--sandbox=namespace".to_owned()),
        Cage::Chroot(_) => add("--sandbox=chroot".to_owned()),
    }
    let seen = options.cage.seen();
    for (kind, id) in [("uid", seen.uid), ("gid", seen.gid)] {
        add(format!("--translate-{kind}=squash-guest:0:{id}:{IDS}"));
        add(format!("--translate-{kind}=host:{id}:{GUEST_ID}:1"));
        for (first, count) in [(0, id), (id + 1, IDS - (id + 1))] {
            if count > 0 {
                add(format!("--translate-{kind}=squash-host:{first}:{NOBODY}:{count}"));
            }
        }
    }
    add(format!("--modcaps={}", capabilities(seen)));
    add("--seccomp=kill".to_owned());
    // Handles would need a capability that opens any file of the host's file system to who has taken the process over.
    add("--inode-file-handles=never".to_owned());
    // Mounts below the directory keep device numbers of their own: without, two files of one number would be the same file
    // to the guest, and a sync would leave them out.
    add("--announce-submounts".to_owned());
    match options.cache {
        ShareCache::None => {
            add("--cache=never".to_owned());
            add("--allow-mmap".to_owned());
        }
        ShareCache::Auto => add("--cache=auto".to_owned()),
        ShareCache::Metadata => {
            add("--cache=metadata".to_owned());
            add("--allow-mmap".to_owned());
        }
        ShareCache::Always => add("--cache=always".to_owned()),
    }
    match options.access {
        DiskAccess::ReadOnly => add("--readonly".to_owned()),
        DiskAccess::ReadWrite => {}
    }
    // The limit is raised before the program starts, as far as it can be.
    add("--rlimit-nofile=0".to_owned());
    add("--log-level=warn".to_owned());
    args
}

/// What is taken away of what virtiofsd keeps as root. Without `fsetid` a write clears a file's setuid bit as anybody's
/// does. Where one user is all there is, it never needs to become another, nor give files away.
const fn capabilities(seen: Ids) -> &'static str {
    if seen.uid == 0 { "-mknod:-setfcap:-fsetid:-chown:-setuid:-setgid" } else { "-mknod:-setfcap:-fsetid" }
}

/// Where the socket of a share is while its two ends are being connected.
pub(super) fn socket_path(socket_dir: &Utf8Path, shed: &ShedName) -> Utf8PathBuf {
    SocketPaths::new(socket_dir, shed).link.with_extension("fs")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANN: Ids = Ids { uid: 1001, gid: 100 };

    fn shown(cage: Cage) -> String {
        let options = Options {
            source: "/home/ann/web".into(),
            access: DiskAccess::ReadWrite,
            cage,
            cache: ShareCache::None,
            listener_fd: 9,
        };
        arguments(&options).join("\n")
    }

    #[test]
    fn a_user_is_alone_in_a_namespace() {
        insta::assert_snapshot!(shown(Cage::User(ANN)), @r"
        --fd=9
        --shared-dir=/home/ann/web
        --sandbox=namespace
        --uid-map=:0:1001:1:
        --gid-map=:0:100:1:
        --translate-uid=squash-guest:0:0:4294967295
        --translate-uid=host:0:1000:1
        --translate-uid=squash-host:1:65534:4294967294
        --translate-gid=squash-guest:0:0:4294967295
        --translate-gid=host:0:1000:1
        --translate-gid=squash-host:1:65534:4294967294
        --modcaps=-mknod:-setfcap:-fsetid:-chown:-setuid:-setgid
        --seccomp=kill
        --inode-file-handles=never
        --announce-submounts
        --cache=never
        --allow-mmap
        --rlimit-nofile=0
        --log-level=warn
        ");
    }

    #[test]
    fn root_acts_as_the_owner_where_there_are_no_user_namespaces() {
        let text = shown(Cage::Chroot(ANN));
        for option in [
            "--sandbox=chroot",
            "--translate-uid=squash-guest:0:1001:4294967295",
            "--translate-uid=squash-host:0:65534:1001",
            "--translate-uid=squash-host:1002:65534:4294966293",
            "--translate-gid=host:100:1000:1",
            "--modcaps=-mknod:-setfcap:-fsetid",
        ] {
            assert!(text.lines().any(|line| line == option), "{option}: {text}");
        }
    }

    #[test]
    fn the_strictest_cage_is_tried_first_and_none_is_never_tried() {
        let user = Cage::User(ANN);
        assert_eq!(Cage::choices(Ids::ROOT, ANN), [user, Cage::Root(ANN), Cage::Chroot(ANN)]);
        assert_eq!(Cage::choices(ANN, Ids::ROOT), [user]);
        assert_eq!(Cage::choices(ANN, ANN), [user]);
        assert!(Cage::choices(Ids::ROOT, Ids::ROOT).iter().all(|cage| cage.seen() == Ids::ROOT));
    }

    proptest! {
        #[test]
        fn every_id_of_the_host_has_one_meaning(uid in 0..u32::MAX - 1, other in 0..u32::MAX - 1) {
            let text = shown(Cage::Root(Ids { uid, gid: 0 }));
            let ranges: Vec<(u32, u32)> = text
                .lines()
                .filter_map(|line| line.strip_prefix("--translate-uid="))
                .filter_map(|line| line.strip_prefix("host:").or_else(|| line.strip_prefix("squash-host:")))
                .map(|line| {
                    let fields: Vec<u32> = line.split(':').map(|field| field.parse().unwrap()).collect();
                    (fields[0], fields[2])
                })
                .collect();
            let meanings = ranges.iter().filter(|(first, count)| other >= *first && other - first < *count);
            prop_assert_eq!(meanings.count(), 1);
        }
    }
}
