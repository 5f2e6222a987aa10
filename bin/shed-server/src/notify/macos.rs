//! launchd, which asks nobody: what speaks to an agent before it listens is refused and tries again.

pub(crate) const fn ready() {}
