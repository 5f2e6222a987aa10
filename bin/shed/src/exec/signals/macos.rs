//! macOS.

/// SIGCONT (sys/signal.h), for which tokio has no name.
pub(super) const CONTINUE: i32 = 19;
