//! Keeps secrets out of what a crash would leave behind. Called first by every entry point.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns core dumps off for this process, and tracing by anybody but root.
pub(crate) fn against_core_dumps() -> io::Result<()> {
    // The limit alone does not hold where core_pattern is a pipe (core(5)); not being dumpable does.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn afterwards_there_is_no_core_dump() {
        against_core_dumps().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
    }
}
