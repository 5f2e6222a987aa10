//! By the limit of core files.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

pub(super) fn leave_no_core() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}
