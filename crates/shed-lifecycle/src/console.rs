//! Reads the end of a guest's console for people, in the error of a boot that failed, and keeps it from growing for ever.
//!
//! The guest writes this text and is not trusted: it is bounded, and control characters do not reach a terminal.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_state::InstanceFiles;

use crate::{guest_text::Cleaner, log_cut};

/// How much of the console's end is looked at, in bytes.
const TAIL_BYTES: u64 = 16 << 10;

/// How many lines an error shows.
const TAIL_LINES: usize = 20;

/// Longest line an error shows, in characters.
const LINE_CHARS: usize = 240;

/// A console that is larger than this when the machine starts is cut, in bytes.
const KEEP_ABOVE: u64 = 8 << 20;

/// What is left of a console that is cut, in bytes.
const KEEP: u64 = 1 << 20;

/// Begins the line by which shed-init says why it gave up.
const INIT_ERROR: &str = "shed-init: error E";

/// What Linux says of a processor that gets no timer interrupts (kernel/rcu/tree_stall.h), every 21 s.
const TIMER_LOST: &str = "Possible timer handling issue on cpu=";

/// Remembers where this boot's output begins: both logs are appended to.
#[derive(Debug, Clone)]
pub(crate) struct ConsoleMark {
    console: (Utf8PathBuf, u64),
    vmm: (Utf8PathBuf, u64),
}

/// What a guest says that got to its first program, or whose kernel gives up.
const LAST_WORDS: [&str; 3] = ["shed-init:", "Kernel panic", "not syncing"];

impl ConsoleMark {
    /// Marks the present end of a shed's logs.
    pub(crate) fn now(files: &InstanceFiles) -> Self {
        let mark = |path: &Utf8Path| (path.to_owned(), path.metadata().map_or(0, |meta| meta.len()));
        Self { console: mark(&files.console_log), vmm: mark(&files.vmm_log) }
    }

    /// Tells whether a processor of the guest has lost its timer for good: its kernel has said so twice since the mark.
    /// On a host that is only busy it says so once at most and goes on.
    pub(crate) fn has_lost_its_timer(&self) -> bool {
        let lines = tail_since(&self.console.0, self.console.1);
        lines.iter().filter(|line| line.contains(TIMER_LOST)).count() >= 2
    }

    /// Tells whether a guest said neither that it came to its first program nor why it did not, since the mark. A kernel that
    /// cannot boot panics in words; one that is reset without any has lost its processor's state, which virtualisation
    /// within virtualisation now and then does to machines that start side by side.
    pub(crate) fn ended_without_a_word(&self) -> bool {
        let lines = tail_since(&self.console.0, self.console.1);
        !lines.iter().any(|line| LAST_WORDS.iter().any(|words| line.contains(words)))
    }

    /// Describes what was written since the mark, for the end of an error message.
    pub(crate) fn describe(&self) -> String {
        let console = tail_since(&self.console.0, self.console.1);
        let vmm = tail_since(&self.vmm.0, self.vmm.1);
        let mut text = match console.iter().rev().find(|line| line.contains(INIT_ERROR)) {
            Some(line) => format!("the guest says: {line}; "),
            None => String::new(),
        };
        if console.is_empty() && vmm.is_empty() {
            text.push_str("its console is empty");
            return text;
        }
        if !vmm.is_empty() {
            text.push_str(&format!("the VMM printed:\n  {}\n", vmm.join("\n  ")));
        }
        if !console.is_empty() {
            text.push_str(&format!("the last lines of {}:\n  {}", self.console.0, console.join("\n  ")));
        }
        text
    }
}

fn tail_since(path: &Utf8Path, start: u64) -> Vec<String> {
    read_tail(path, start).map(|bytes| printable_lines(&bytes)).unwrap_or_default()
}

fn read_tail(path: &Utf8Path, start: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    // A log that is shorter than the mark has been cut in place since; then all of it is this boot's.
    let start = if start > end { 0 } else { start };
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the last lines of what a guest or VMM wrote, bounded and without control characters.
pub(crate) fn printable_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .split(['\n', '\r'])
        .map(|line| strip_escapes(line).trim_end().chars().take(LINE_CHARS).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec()
}

/// Removes escape sequences and every other control character but tabs from a line.
pub(crate) fn strip_escapes(line: &str) -> String {
    Cleaner::default().clean(line.as_bytes()).replace(['\r', '\n'], "")
}

/// Cuts a console that has grown large to its end.
///
/// # Errors
/// When the file cannot be read or written. One that is missing is small enough.
pub(crate) fn trim(path: &Utf8Path) -> std::io::Result<()> {
    log_cut::cut(path, KEEP_ABOVE, KEEP).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark_on(content: &[u8]) -> (tempfile::TempDir, ConsoleMark, Utf8PathBuf) {
        let guard = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(guard.path()).unwrap().join("console.log");
        std::fs::write(&path, content).unwrap();
        let mark = ConsoleMark { console: (path.clone(), 0), vmm: (path.with_file_name("vmm.log"), 0) };
        (guard, mark, path)
    }

    #[test]
    fn escape_sequences_of_the_guest_do_not_reach_the_terminal() {
        let (_guard, mark, _) =
            mark_on(b"a\x1b[31mred\x1b[0m\x07\x1b]0;title\x07\nshed-init: error E20: upper damaged\r\n");
        let text = mark.describe();
        assert!(text.starts_with("the guest says: shed-init: error E20: upper damaged; "), "{text}");
        assert!(text.contains("ared") && !text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
    }

    #[test]
    fn a_lost_timer_is_told_twice() {
        let stall =
            "[  127.5] rcu: \tPossible timer handling issue on cpu=1 timer-softirq=4\n[  127.6] rcu: more\n";
        let (_guard, mark, path) = mark_on(stall.as_bytes());
        assert!(!mark.has_lost_its_timer());
        std::fs::write(&path, stall.repeat(2)).unwrap();
        assert!(mark.has_lost_its_timer());
    }

    #[test]
    fn only_the_end_of_a_long_console_is_shown() {
        let (_guard, mark, _) = mark_on("x\n".repeat(100_000).as_bytes());
        assert!(mark.describe().lines().count() <= TAIL_LINES + 1);
    }

    #[test]
    fn an_earlier_boot_is_not_shown_unless_the_log_was_cut() {
        let (_guard, mut mark, path) = mark_on(b"old boot\n");
        mark.console.1 = 9;
        assert_eq!(mark.describe(), "its console is empty");
        std::fs::write(&path, b"new\n").unwrap();
        assert!(mark.describe().contains("new"));
    }

    #[test]
    fn a_large_console_keeps_its_end_and_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let (_guard, _, path) = mark_on(&vec![b'a'; usize::try_from(KEEP_ABOVE).unwrap() + 1]);
        let before = path.metadata().unwrap().ino();
        trim(&path).unwrap();
        let after = path.metadata().unwrap();
        assert_eq!((after.ino(), after.len()), (before, KEEP));
    }
}
