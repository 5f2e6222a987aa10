//! macOS, where this only has to build with the rest of the workspace: guests are Linux.

pub(crate) const fn main() {}
