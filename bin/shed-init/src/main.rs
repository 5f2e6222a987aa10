//! Starts PID 1 of the initramfs; everything is in the library.

#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "macos")]
use macos as program;
#[cfg(target_os = "linux")]
use shed_init as program;

fn main() {
    program::main();
}
