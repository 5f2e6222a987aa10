//! The capability of shed-server's own file, by which an ordinary user's server may make bridge, TAPs and rules.
//!
//! It is what `setcap cap_net_admin+ep` writes: an extended attribute that the kernel reads at each execve
//! (capabilities(7), linux/capability.h). Capabilities that somebody else gave the file stay. The kernel takes them all away when
//! the file is written to, so a new build needs a new setup.

use std::io;

use camino::Utf8Path;
use rustix::{
    fs::{StatVfsMountFlags, XattrFlags, getxattr, removexattr, setxattr, statvfs},
    io::Errno,
};

use crate::{account::Account, step::Step};

const ITEM: &str = "capability";

/// Name of the attribute (linux/xattr.h).
const ATTRIBUTE: &str = "security.capability";

/// Longest value: revision 3 with the id of a namespace's root (linux/capability.h, `XATTR_CAPS_SZ_3`).
const MAX_VALUE: usize = 24;

/// Revision 2 of the value (linux/capability.h, `VFS_CAP_REVISION_2`).
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const REVISION_MASK: u32 = 0xff00_0000;

/// What is permitted is effective from the start (linux/capability.h, `VFS_CAP_FLAGS_EFFECTIVE`).
const EFFECTIVE: u32 = 1;

/// CAP_NET_ADMIN's bit (linux/capability.h: 12).
const NET_ADMIN: u32 = 1 << 12;

/// Capabilities of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct FileCapabilities {
    effective: bool,
    permitted: [u32; 2],
    inheritable: [u32; 2],
}

impl FileCapabilities {
    /// Reads the value of the attribute; nothing when it is of a kind that this does not know.
    fn parse(value: &[u8]) -> Option<Self> {
        let mut words = value.chunks_exact(4).map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)));
        let mut next = || words.next().flatten();
        let magic = next()?;
        let length = match magic & REVISION_MASK {
            REVISION_2 => 20,
            REVISION_3 => 24,
            _unknown => return None,
        };
        let (low, low_inheritable, high, high_inheritable) = (next()?, next()?, next()?, next()?);
        (value.len() == length).then_some(Self {
            effective: magic & EFFECTIVE != 0,
            permitted: [low, high],
            inheritable: [low_inheritable, high_inheritable],
        })
    }

    fn value(self) -> Vec<u8> {
        let magic = REVISION_2 | if self.effective { EFFECTIVE } else { 0 };
        let ([low, high], [low_inheritable, high_inheritable]) = (self.permitted, self.inheritable);
        let words = [magic, low, low_inheritable, high, high_inheritable];
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    const fn has_ours(self) -> bool {
        self.effective && self.permitted[0] & NET_ADMIN != 0
    }

    const fn with_ours(self) -> Self {
        let Self { permitted: [low, high], inheritable, .. } = self;
        Self { effective: true, permitted: [low | NET_ADMIN, high], inheritable }
    }

    /// Returns what is left; nothing when that is nothing.
    fn without_ours(self) -> Option<Self> {
        let left = Self { permitted: [self.permitted[0] & !NET_ADMIN, self.permitted[1]], ..self };
        (left.permitted != [0, 0] || left.inheritable != [0, 0]).then_some(left)
    }
}

/// Gives it to the program, for this user to run.
pub(super) fn grant(program: &Utf8Path, account: &Account) -> Step {
    let by_hand =
        format!("sudo setcap cap_net_admin+ep '{program}', or `shed-server install`, whose unit gives it");
    match try_grant(program) {
        Err(error) => Step::failed(ITEM, format!("{program}: {error}")).hint(by_hand),
        Ok(false) => Step::was_so(ITEM, format!("{program} has CAP_NET_ADMIN for whoever runs it")),
        Ok(true) => Step::done(ITEM, format!("{program} has CAP_NET_ADMIN for whoever runs it, until it is written to")).hint(
            format!("if others than {} shall not make networks on this host, keep the program where they cannot run it", account.name),
        ),
    }
}

fn try_grant(program: &Utf8Path) -> io::Result<bool> {
    if statvfs(program.as_std_path())?.f_flag.contains(StatVfsMountFlags::NOSUID) {
        return Err(io::Error::other(
            "its file system is mounted with nosuid, so that the kernel ignores capabilities",
        ));
    }
    let before = read(program)?.unwrap_or_default();
    if before.has_ours() {
        return Ok(false);
    }
    write(program, before.with_ours())?;
    Ok(true)
}

/// Takes it away; returns nothing when it was not there.
pub(super) fn take_away(program: &Utf8Path) -> Option<Step> {
    let taken = || -> io::Result<bool> {
        let Some(before) = read(program)?.filter(|before| before.has_ours()) else { return Ok(false) };
        match before.without_ours() {
            Some(left) => write(program, left)?,
            None => removexattr(program.as_std_path(), ATTRIBUTE)?,
        }
        Ok(true)
    };
    match taken() {
        Ok(true) => Some(Step::done(ITEM, format!("{program} has CAP_NET_ADMIN no longer"))),
        Ok(false) => None,
        Err(error) => {
            let by_hand = format!("sudo setcap -r '{program}'");
            Some(Step::failed(ITEM, format!("{program}: {error}")).hint(by_hand))
        }
    }
}

fn read(program: &Utf8Path) -> io::Result<Option<FileCapabilities>> {
    let mut value = [0; MAX_VALUE];
    match getxattr(program.as_std_path(), ATTRIBUTE, &mut value) {
        Ok(length) => match FileCapabilities::parse(&value[..length]) {
            Some(found) => Ok(Some(found)),
            None => Err(io::Error::other("it has capabilities of an unknown kind; `getcap` shows them")),
        },
        // The second: a file system that has no such attributes, and says so again when one is set.
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write(program: &Utf8Path, capabilities: FileCapabilities) -> io::Result<()> {
    Ok(setxattr(program.as_std_path(), ATTRIBUTE, &capabilities.value(), XattrFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_what_setcap_writes() {
        let ours = FileCapabilities::default().with_ours();
        // As `setcap cap_net_admin+ep FILE; getfattr -e hex -n security.capability FILE` shows it.
        assert_eq!(hex(&ours.value()), "0100000200100000000000000000000000000000");
        assert_eq!(FileCapabilities::parse(&ours.value()), Some(ours));
        assert!(ours.has_ours() && ours.without_ours().is_none());
    }

    #[test]
    fn what_others_gave_stays() {
        let theirs = FileCapabilities { effective: false, permitted: [1 << 10, 1], inheritable: [4, 0] };
        assert!(!theirs.has_ours());
        let both = theirs.with_ours();
        assert_eq!((both.permitted, both.inheritable), ([1 << 10 | 1 << 12, 1], [4, 0]));
        let left = both.without_ours().unwrap();
        assert_eq!((left.permitted, left.inheritable), (theirs.permitted, theirs.inheritable));
    }

    #[test]
    fn values_of_other_kinds_are_not_taken_for_ours() {
        let good = FileCapabilities::default().with_ours().value();
        for length in 0..good.len() {
            assert_eq!(FileCapabilities::parse(&good[..length]), None, "{length}");
        }
        let mut namespaced = good.clone();
        namespaced[3] = 3;
        assert_eq!(FileCapabilities::parse(&namespaced), None, "too short for its revision");
        namespaced.extend([0xe8, 3, 0, 0]);
        assert!(FileCapabilities::parse(&namespaced).unwrap().has_ours());
        assert_eq!(FileCapabilities::parse(&[0xff; 24]), None);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
