//! The two sockets of a machine: their names, their making and their removal.
//!
//! The server binds them before it starts QEMU and hands them over as listening descriptors. So they can be
//! connected to from the first moment, nothing ever waits for a file to appear, and a later server finds them under
//! names that follow from the shed's alone.

use std::{
    fs, io,
    os::unix::{fs::DirBuilderExt, fs::PermissionsExt, net::UnixListener},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ShedName;

/// Longest path of a Unix socket in bytes, without the final NUL: `sun_path` has 108 bytes on Linux (man 7 unix)
/// and 104 on macOS (sys/un.h).
const PATH_MAX: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// Longest stem of a socket's name. A shed's name may have 63 bytes, which would leave too little for the directory.
const STEM_MAX: usize = 24;

/// Where the sockets of one shed's machine are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketPaths {
    /// QEMU's monitor.
    pub qmp: Utf8PathBuf,
    /// The host's end of the guest link.
    pub link: Utf8PathBuf,
}

/// Both sockets, listening.
#[derive(Debug)]
pub(super) struct Listeners {
    pub qmp: UnixListener,
    pub link: UnixListener,
}

impl SocketPaths {
    /// Returns where the sockets of `shed` belong.
    pub(super) fn new(dir: &Utf8Path, shed: &ShedName) -> Self {
        let stem = stem(shed);
        Self { qmp: dir.join(format!("{stem}.qmp")), link: dir.join(format!("{stem}.link")) }
    }

    /// Binds both; what an earlier machine of this shed has left is removed first.
    ///
    /// # Errors
    /// When a socket cannot be made; says which. Then none is left.
    pub(super) fn bind(&self) -> Result<Listeners, (Utf8PathBuf, io::Error)> {
        let both = self.remove().map_err(|error| (self.qmp.clone(), error)).and_then(|()| {
            let qmp = bind(&self.qmp).map_err(|error| (self.qmp.clone(), error))?;
            let link = bind(&self.link).map_err(|error| (self.link.clone(), error))?;
            Ok(Listeners { qmp, link })
        });
        both.inspect_err(|_| {
            if let Err(error) = self.remove() {
                tracing::warn!(%error, path = %self.qmp, "a socket is left over");
            }
        })
    }

    /// Removes both, if they are there.
    ///
    /// # Errors
    /// When one is there and stays.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.qmp).and(remove(&self.link))
    }
}

/// Makes the directory of the sockets, for its owner only, when it is not there.
pub(super) fn make_dir(dir: &Utf8Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Returns the longest directory that leaves room for the sockets of every shed, in bytes.
pub(super) const fn longest_dir() -> usize {
    PATH_MAX - "/".len() - STEM_MAX - ".link".len()
}

fn bind(path: &Utf8Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Removes a socket, if it is there.
pub(super) fn remove(path: &Utf8Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns the shed's name, or a short form of a long one: its beginning, `~`, which no name has, and a hash.
fn stem(shed: &ShedName) -> String {
    let name = shed.as_str();
    if name.len() <= STEM_MAX {
        return name.to_owned();
    }
    let hash = format!("~{:016x}", fnv1a(name.as_bytes()));
    format!("{}{hash}", &name[..STEM_MAX - hash.len()])
}

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo), as it will be in every version of the server, so that
/// a new one finds the sockets that an old one made.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> ShedName {
        text.parse().unwrap()
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn sockets_of_long_names_differ_and_fit() {
        let dir = Utf8PathBuf::from(format!("/{}", "d".repeat(longest_dir() - 1)));
        let one = SocketPaths::new(&dir, &name(&"a".repeat(63)));
        let other = SocketPaths::new(&dir, &name(&"a".repeat(62)));
        assert_ne!(one, other);
        assert_eq!(one.link.as_str().len(), PATH_MAX);
        assert_eq!(SocketPaths::new(Utf8Path::new("/s"), &name("api")).qmp, "/s/api.qmp");
    }

    #[test]
    fn binding_replaces_what_an_earlier_machine_left_and_removal_is_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap().join("deep/sockets");
        make_dir(&dir).unwrap();
        make_dir(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let paths = SocketPaths::new(&dir, &name("api"));
        drop(paths.bind().unwrap());
        let listeners = paths.bind().unwrap();
        UnixStream::connect(&paths.qmp).unwrap();
        UnixStream::connect(&paths.link).unwrap();
        drop(listeners);
        paths.remove().unwrap();
        paths.remove().unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_that_cannot_be_made_is_named_and_its_twin_is_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        fs::create_dir(dir.join("api.link")).unwrap();
        let (path, _) = SocketPaths::new(dir, &name("api")).bind().unwrap_err();
        assert!(path.as_str().starts_with(dir.as_str()));
        assert!(!dir.join("api.qmp").exists());
    }

    proptest! {
        #[test]
        fn different_names_have_different_sockets(one in "[a-z]{1,63}", other in "[a-z]{1,63}") {
            prop_assume!(one != other);
            prop_assert_ne!(stem(&name(&one)), stem(&name(&other)));
            prop_assert!(stem(&name(&one)).len() <= STEM_MAX);
        }
    }
}
