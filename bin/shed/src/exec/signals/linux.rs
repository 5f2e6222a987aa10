//! Linux.

/// SIGCONT (signal(7)), for which tokio has no name.
pub(super) const CONTINUE: i32 = 18;
