//! Ends what a test has started even when the test itself is killed.
//!
//! Machines outlive the server that started them, on purpose; a test run that is cut short would leave them running.
//! The guard is a shell outside the test's process group that waits for the end of a pipe only the test holds. Then
//! it kills the processes whose command line names the stage's directory, which no other process's does, and
//! removes the directory.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};

/// Waits for the end of stdin, then ends processes by their own ids. `$@` are the directories.
const SCRIPT: &str = r#"
cat >/dev/null
for round in 1 2; do
  for proc in /proc/[0-9]*; do
    pid=${proc#/proc/}
    [ "$pid" = $$ ] && continue
    line=$(tr '\0' ' ' 2>/dev/null <"$proc/cmdline") || continue
    case $line in *"$1"*) kill -9 "$pid" 2>/dev/null ;; esac
  done
done
for dir in "$@"; do rm -rf -- "$dir"; done
"#;

/// Lives as long as a stage.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    /// Watches over processes that name `state`; removes it and `others` at the end.
    pub(crate) fn over(state: &Utf8Path, others: &[Utf8PathBuf]) -> io::Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "shed-test-guard"])
            .arg(state)
            .args(others)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _status = self.shell.wait();
    }
}
