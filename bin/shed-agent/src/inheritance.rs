//! What a child would inherit from the agent and must not. The standard library leaves all of it as it is.

use std::{mem::MaybeUninit, ptr};

/// Gives the calling process default signal handlers, no blocked signals, and after its exec no descriptors but the
/// standard three. Async-signal-safe: for use between fork and exec.
pub(crate) fn forget() {
    for signal in 1..=64 {
        // SAFETY: signal(2) with the default handler installs no code, and it is async-signal-safe. Signals that cannot
        // be handled, or that the C library keeps for itself, are refused, which is as good.
        let _refused = unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before sigprocmask reads it, and a null pointer for the old mask is
    // allowed. Both are async-signal-safe (signal-safety(7)) and cannot fail with these arguments.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
    // SAFETY: with this flag close_range(2) closes nothing yet: it marks descriptors to be closed by exec, and the
    // standard library's own is marked so already. A kernel before 5.11 refuses.
    let _refused = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
}
