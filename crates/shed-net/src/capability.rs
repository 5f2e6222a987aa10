//! CAP_NET_ADMIN: whether this process has it, and how a child gets it.
//!
//! A server that is not root has it from its file (`setcap cap_net_admin+ep`). Such a capability ends with the next execve, so a
//! child needs it as an ambient one (capabilities(7)).

use std::io;

use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities};

/// Returns whether this process may make devices and rules at all: whether it has CAP_NET_ADMIN.
#[must_use]
pub fn may_administer() -> bool {
    present()
}

/// Returns whether this thread may administer the network.
pub(crate) fn present() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Whether this process has more than whoever started it gave it: set-user-ID, or capabilities of its file (getauxval(3), AT_SECURE).
pub(crate) fn from_file() -> bool {
    // SAFETY: it takes an integer and reads what the kernel has put on the stack at the start.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Lets the program that this process is about to execute have what this process has. Root's programs have it anyway, and where
/// there is none, the program says so better than we could.
///
/// It makes system calls and nothing else, so it may run between fork and exec.
pub(crate) fn pass_on() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    if rustix::process::geteuid().is_root() || !sets.permitted.contains(CapabilitySet::NET_ADMIN) {
        return Ok(());
    }
    sets.inheritable.insert(CapabilitySet::NET_ADMIN);
    set_capabilities(None, sets)?;
    configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, true)?;
    Ok(())
}
