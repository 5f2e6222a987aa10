//! Keeps what a process has in its memory out of core files. Programs through whose hands secrets go call it first.

use std::io;

/// From now on this process leaves no core, whatever `core_pattern` says, and on Linux only root can attach to it or read its
/// memory. Programs that it starts are as they would be without: the kernel gives it back at execve (PR_SET_DUMPABLE(2const)).
/// Where there is no such thing the limit of core files is set to zero, for children, too.
///
/// # Errors
/// When the system refuses, which it has no reason to.
pub fn leave_no_core() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    #[cfg(not(target_os = "linux"))]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn afterwards_there_is_no_core() {
        leave_no_core().unwrap();
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, rustix::process::DumpableBehavior::NotDumpable);
    }
}
