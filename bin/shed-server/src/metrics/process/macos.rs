//! macOS, which has no /proc: nothing is known.

pub(in super::super) const fn resident_bytes() -> Option<u64> {
    None
}

pub(in super::super) const fn open_descriptors() -> Option<u64> {
    None
}

pub(in super::super) const fn start_time() -> Option<f64> {
    None
}
