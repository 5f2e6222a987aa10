//! What an `install` has launchd do, decided from what was found. No I/O.

/// How an agent stands with launchd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It is not known there.
    Absent,
    /// It is loaded, and does not run: it has ended well, or waits to be started again.
    Loaded,
    /// It runs.
    Running,
}

/// What is to be done, once the list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Load it, which starts it.
    Load,
    /// Unload what is loaded by an older list first; then load it.
    Reload,
    /// Start what is loaded.
    Start,
    /// Nothing: it runs.
    Runs,
    /// Nothing, because nobody asked: an older list is loaded.
    OlderStays,
    /// Nothing, because nobody asked: it is loaded and does not run.
    Waits,
    /// Nothing, because nobody asked: the next login loads it.
    NextLogin,
}

/// Decides it: `now` asks for a server that runs, `is_new` is a list that differs from what was there.
pub(super) const fn plan(now: bool, is_new: bool, status: Status) -> Plan {
    match (now, is_new, status) {
        (true, _, Status::Absent) => Plan::Load,
        (true, true, Status::Loaded | Status::Running) => Plan::Reload,
        (true, false, Status::Loaded) => Plan::Start,
        (_, false, Status::Running) => Plan::Runs,
        (false, true, Status::Loaded | Status::Running) => Plan::OlderStays,
        (false, false, Status::Loaded) => Plan::Waits,
        (false, _, Status::Absent) => Plan::NextLogin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_stopped_or_started_that_nobody_asked_for() {
        for is_new in [true, false] {
            for status in [Status::Absent, Status::Loaded, Status::Running] {
                let quiet = plan(false, is_new, status);
                assert!(!matches!(quiet, Plan::Load | Plan::Reload | Plan::Start), "{is_new} {status:?}");
                let asked = plan(true, is_new, status);
                assert!(
                    matches!(asked, Plan::Load | Plan::Reload | Plan::Start | Plan::Runs),
                    "{is_new} {status:?}"
                );
            }
        }
    }

    #[test]
    fn only_a_changed_list_interrupts_a_server_that_runs() {
        assert_eq!(plan(true, false, Status::Running), Plan::Runs);
        assert_eq!(plan(true, true, Status::Running), Plan::Reload);
        assert_eq!(plan(false, true, Status::Running), Plan::OlderStays);
        assert_eq!(plan(true, true, Status::Absent), Plan::Load);
    }
}
