//! A named pipe, for tests of what must not be waited for.

use std::{path::Path, process::Command};

/// Makes a named pipe by the program `mkfifo`: the call that does it is not the same on every system.
///
/// # Panics
/// When there is none then.
pub fn make_pipe(path: impl AsRef<Path>) {
    let path = path.as_ref();
    let made = Command::new("mkfifo").arg("--").arg(path).status().expect("mkfifo, which POSIX has");
    assert!(made.success(), "no pipe at {}: {made}", path.display());
}
