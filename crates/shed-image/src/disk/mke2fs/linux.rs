//! Where mke2fs lies on Linux.

/// Looked into behind PATH, which lacks the system directories for ordinary users of Debian.
pub(super) const MORE_PLACES: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin"];
