//! What a child would inherit from the agent and must not. The standard library leaves all of it as it is.

use std::{mem::MaybeUninit, ptr, sync::OnceLock};

/// The signals that this process ignores, and its children with it. Handlers end at exec by themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ignored(&'static [libc::c_int]);

impl Ignored {
    /// Looks once: nothing here changes it while the agent runs. Not for use between fork and exec.
    pub(crate) fn look() -> Self {
        static IGNORED: OnceLock<Vec<libc::c_int>> = OnceLock::new();
        Self(IGNORED.get_or_init(|| (1..=64).filter(|&signal| is_ignored(signal)).collect()))
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with a null new action sigaction(2) only fills the old one, which is read when it says that it did.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Gives the calling process default signal handlers, no blocked signals, and after its exec no descriptors but the
/// standard three. Async-signal-safe: for use between fork and exec.
pub(crate) fn forget(ignored: Ignored) {
    for &signal in ignored.0 {
        // SAFETY: signal(2) with the default handler installs no code, and it is async-signal-safe. A refusal leaves
        // the signal ignored, which is no harm.
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
    let _refused =
        unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
}
