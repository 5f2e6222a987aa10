//! Starts what its name asks for; everything is in the library.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    shed_ext::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    // The guest is Linux; elsewhere this only has to build with the rest of the workspace.
    ExitCode::FAILURE
}
