//! The process table of Linux: a directory of /proc for each.

use super::Process;

pub(super) fn list() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // A process may end while it is looked at.
    pids.filter_map(|pid| {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = bytes.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
        Some(Process { pid, command_line: words.join(" ").trim_end().to_owned() })
    })
    .collect()
}
