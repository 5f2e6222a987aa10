//! Keeps what the process has in its memory from files and from other processes of the same user.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Turns off core files, and on Linux also debuggers. Call it before any secret is read.
///
/// # Errors
/// When the system refuses, which it has no reason to.
pub fn harden() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_process_leaves_no_core_file() {
        harden().unwrap();
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
    }
}
