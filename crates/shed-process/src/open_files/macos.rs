//! macOS, which says that there is no limit and refuses to set none (setrlimit(2), COMPATIBILITY).

/// `OPEN_MAX` (sys/syslimits.h): what that page says to ask for instead.
pub(super) const UNLIMITED: u64 = 10240;

/// Returns the highest limit where this is the most that is allowed.
pub(super) const fn highest(maximum: Option<u64>) -> Option<u64> {
    match maximum {
        Some(maximum) => Some(maximum),
        None => Some(UNLIMITED),
    }
}
