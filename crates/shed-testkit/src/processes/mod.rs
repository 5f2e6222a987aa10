//! Which processes have a text in their command line: how a machine that should be gone is found.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Program and arguments, separated by spaces.
    pub command_line: String,
}

/// Returns the processes whose command line has this text, without the calling process. Zombies have none.
#[must_use]
pub fn processes_with(text: &str) -> Vec<Process> {
    let own = std::process::id();
    let mut all = system::list();
    all.retain(|process| process.pid != own && process.command_line.contains(text));
    all
}

/// Ends a process at once; nothing happens when it has ended.
pub(crate) fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // ESRCH: it has ended by itself.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_by_its_argument_and_gone_after_its_end() {
        let mark = format!("8{:09}", std::process::id());
        let mut child = std::process::Command::new("sleep").arg(&mark).spawn().unwrap();
        // The kernel ends the wait of `spawn` a moment before the new program's arguments can be read.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut found = processes_with(&mark);
        while found.is_empty() && std::time::Instant::now() < deadline {
            found = processes_with(&mark);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [child.id()], "{found:?}");
        assert_eq!(processes_with(&mark), []);
    }
}
