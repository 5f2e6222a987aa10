//! Whether the install hook has run, in /var/log/shed/.provision_state (spec D): it runs once in a shed's life.

use std::io;

use super::log_dir::LogDir;

/// The file, in the directory of logs.
pub(super) const FILE: &str = ".provision_state";

/// Longest file that is read, in bytes: two short lines.
const MAX_FILE: u64 = 64 << 10;

const RAN: &str = "install_ran=true";

/// Whether install has succeeded. What cannot be read counts as no: a second install is annoying, none is worse.
pub(super) fn install_ran(logs: &LogDir) -> bool {
    let content = logs.read(FILE, MAX_FILE).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&content).lines().any(|line| line.trim_end() == RAN)
}

/// Notes that it has succeeded, and the hash of the script that ran, by which a changed one can be told.
pub(super) fn succeeded(logs: &LogDir, sha256: &str) -> io::Result<()> {
    logs.replace(FILE, format!("{RAN}\ninstall_sha256={sha256}\n").as_bytes())
}

/// Notes why it has not.
pub(super) fn failed(logs: &LogDir, error: &str) -> io::Result<()> {
    logs.replace(FILE, format!("error={}\n", escaped(error)).as_bytes())
}

/// One line, from which the text can be had again.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_success_counts_and_a_failure_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogDir::open(dir.path(), &crate::exec::users::default("", "", "")).unwrap();
        let text = || fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!install_ran(&logs));
        failed(&logs, "a\\b\ninstall_ran=true").unwrap();
        assert_eq!(text(), "error=a\\\\b\\ninstall_ran=true\n");
        assert!(!install_ran(&logs));
        succeeded(&logs, "00ff").unwrap();
        assert_eq!(text(), "install_ran=true\ninstall_sha256=00ff\n");
        assert!(install_ran(&logs));
        // As a user writes it, after a run by hand.
        fs::write(dir.path().join(FILE), "install_ran=true").unwrap();
        assert!(install_ran(&logs));
        for other in ["install_ran=false\n", "#install_ran=true\n", ""] {
            fs::write(dir.path().join(FILE), other).unwrap();
            assert!(!install_ran(&logs), "{other}");
        }
    }
}
