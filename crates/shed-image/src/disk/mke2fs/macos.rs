//! Where mke2fs lies on macOS.

/// Looked into behind PATH. Homebrew keeps e2fsprogs out of PATH: in the first on Apple silicon, in the second on Intel.
pub(super) const MORE_PLACES: &[&str] =
    &["/opt/homebrew/opt/e2fsprogs/sbin", "/usr/local/opt/e2fsprogs/sbin", "/usr/local/sbin"];
