//! Finds the programs of this workspace that a test runs.

use camino::{Utf8Path, Utf8PathBuf};

/// Returns the path of a program of this workspace: `SHED_BIN_DIR/{name}` if that variable is set, else the one that
/// was built beside the running test.
///
/// # Panics
/// When it is not there; the message says how to build it.
#[must_use]
pub fn program(name: &str) -> Utf8PathBuf {
    let path = match std::env::var("SHED_BIN_DIR") {
        Ok(dir) => Utf8PathBuf::from(dir).join(name),
        Err(_) => build_directory().join(name),
    };
    assert!(path.is_file(), "there is no {path}; build it with `cargo build -p {name}`, or set SHED_BIN_DIR");
    path
}

/// Tests are in `target/PROFILE/deps`, programs in `target/PROFILE`.
fn build_directory() -> Utf8PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let test = Utf8PathBuf::from_path_buf(test).expect("the target directory's path is UTF-8");
    let dir = test.parent().expect("a program is in a directory");
    let is_deps = dir.file_name() == Some("deps");
    dir.parent().filter(|_| is_deps).unwrap_or(dir).to_path_buf()
}

/// Returns a file's last lines, for the message of a failing test; nothing when there is no such file.
pub(crate) fn tail(path: &Utf8Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
