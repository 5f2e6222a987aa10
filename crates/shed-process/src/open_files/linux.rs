//! Linux, where whatever limit root has set can be used up.

/// Files of a process without a limit: the default of the system's own, `fs.nr_open` (proc_sys_fs(5)).
pub(super) const UNLIMITED: u64 = 1_048_576;

/// Returns the highest limit where this is the most that is allowed.
pub(super) const fn highest(maximum: Option<u64>) -> Option<u64> {
    maximum
}
