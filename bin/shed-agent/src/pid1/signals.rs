//! The signals that PID 1 acts on, taken one at a time instead of interrupting anything.

use std::{io, mem::MaybeUninit, ptr, time::Duration};

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The machine is to come to its end.
    End(End),
    /// A child has ended.
    Child,
    /// No signal came in time.
    Nothing,
}

/// How the machine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    PowerOff,
    Reboot,
}

/// Signals that ask for an end: the agent's own (SIGPWR, also a UPS's); the kernel's for Ctrl-Alt-Del (SIGINT), which some
/// hosts press for a power button; and those of `halt`, `poweroff` and `reboot` of busybox and toybox (busybox:
/// init/halt.c), which images without an init are most likely to have.
const ENDS: [(libc::c_int, End); 5] = [
    (libc::SIGPWR, End::PowerOff),
    (libc::SIGINT, End::PowerOff),
    (libc::SIGUSR1, End::PowerOff),
    (libc::SIGUSR2, End::PowerOff),
    (libc::SIGTERM, End::Reboot),
];

/// The set of blocked signals.
pub(super) struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks them, so that they wait to be taken.
    pub(super) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set that it is given; sigaddset and sigprocmask get an initialised one
        // and valid signal numbers, and a null pointer for the old mask is allowed (sigprocmask(2)).
        let (set, result) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for signal in ENDS.map(|(signal, _)| signal).into_iter().chain([libc::SIGCHLD]) {
                libc::sigaddset(&raw mut set, signal);
            }
            (set, libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()))
        };
        if result == 0 { Ok(Self(set)) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes the next one; waits for it at most `patience`, without a limit for ever.
    pub(super) fn wait(&self, patience: Option<Duration>) -> Event {
        let timeout = patience.map(|limit| libc::timespec {
            tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the set is initialised, the timeout null or alive through the call, and no information is asked for.
        match unsafe { libc::sigtimedwait(&raw const self.0, ptr::null_mut(), timeout) } {
            libc::SIGCHLD => Event::Child,
            signal => match ENDS.into_iter().find(|(asks, _)| *asks == signal) {
                Some((_, end)) => Event::End(end),
                None => Event::Nothing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a child process: blocked signals stay with the thread that a test may share.
    #[test]
    fn signals_are_taken_one_at_a_time() {
        let taken = std::thread::spawn(|| {
            let signals = Signals::block().unwrap();
            assert_eq!(signals.wait(Some(Duration::from_millis(1))), Event::Nothing);
            for signal in [libc::SIGPWR, libc::SIGTERM, libc::SIGCHLD] {
                // SAFETY: the signal goes to this thread, which has blocked it.
                assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), signal) }, 0);
            }
            [signals.wait(None), signals.wait(None), signals.wait(None)]
        });
        // The kernel chooses the order.
        let taken = taken.join().unwrap();
        for event in [Event::Child, Event::End(End::PowerOff), Event::End(End::Reboot)] {
            assert!(taken.contains(&event), "{taken:?}");
        }
    }
}
