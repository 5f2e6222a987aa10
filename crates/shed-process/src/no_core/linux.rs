//! By the attribute of the process, which the kernel looks at before `core_pattern`.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

pub(super) fn leave_no_core() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn afterwards_there_is_no_core() {
        leave_no_core().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
