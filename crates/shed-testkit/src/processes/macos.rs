//! The process table of macOS, as `ps` tells it.

use super::Process;

pub(super) fn list() -> Vec<Process> {
    let output = std::process::Command::new("ps").args(["-axww", "-o", "pid=,command="]).output();
    let text = output.expect("every Unix has ps").stdout;
    let lines = String::from_utf8_lossy(&text).into_owned();
    let process = |line: &str| {
        let (pid, command_line) = line.trim_start().split_once(' ')?;
        Some(Process { pid: pid.parse().ok()?, command_line: command_line.trim().to_owned() })
    };
    lines.lines().filter_map(process).collect()
}
