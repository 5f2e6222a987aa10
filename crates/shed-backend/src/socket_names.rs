//! Names of the sockets by which a machine is reached: from a shed's name alone, so that a later server finds them, and short
//! enough for a Unix socket. Every backend has them in a directory of its own.

use std::{fs, io, os::unix::fs::DirBuilderExt};

use camino::Utf8Path;
use shed_types::ShedName;

use crate::system::SOCKET_PATH_MAX;

/// Longest stem of a socket's name. A shed's name may have 63 bytes, which would leave too little for the directory.
const STEM_MAX: usize = 24;

/// Makes the directory of the sockets, for its owner only, when it is not there.
pub(crate) fn make_dir(dir: &Utf8Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Returns the longest directory in bytes that leaves room for a socket of every shed whose name ends so.
pub(crate) const fn room_for(ending: &str) -> usize {
    SOCKET_PATH_MAX - "/".len() - STEM_MAX - ending.len()
}

/// Removes a socket, if it is there.
pub(crate) fn remove(path: &Utf8Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns the shed's name, or a short form of a long one: its beginning, `~`, which no name has, and a hash.
pub(crate) fn stem(shed: &ShedName) -> String {
    let name = shed.as_str();
    if name.len() <= STEM_MAX {
        return name.to_owned();
    }
    let hash = format!("~{:016x}", fnv1a(name.as_bytes()));
    format!("{}{hash}", &name[..STEM_MAX - hash.len()])
}

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo), as it will be in every version of the server, so that
/// a new one finds the sockets that an old one made.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
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

    proptest! {
        #[test]
        fn different_names_have_different_sockets(one in "[a-z]{1,63}", other in "[a-z]{1,63}") {
            prop_assume!(one != other);
            prop_assert_ne!(stem(&name(&one)), stem(&name(&other)));
            prop_assert!(stem(&name(&one)).len() <= STEM_MAX);
        }
    }
}
