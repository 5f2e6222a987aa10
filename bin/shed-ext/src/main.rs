//! Starts what its name asks for; everything is in the library.

use std::process::ExitCode;

#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "macos")]
use macos as program;
#[cfg(target_os = "linux")]
use shed_ext as program;

fn main() -> ExitCode {
    program::main()
}
