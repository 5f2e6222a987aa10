//! For tests that run the real programs: a [`TestServer`] with state of its own, and waiting on conditions.
//!
//! Everything a test server makes lies in one temporary directory with a short name, because sockets have short
//! paths. Its port is the system's choice and learned from a file, so tests run side by side. What it leaves can be
//! asked for ([`TestServer::assert_clean`]), and is killed and removed when the test ends, however it ends.
//!
//! Not for production code: functions here panic or return `anyhow` errors with a log in them.

mod fuzz;
mod pipe;
mod processes;
mod programs;
mod server;
mod wait;

pub use fuzz::fuzz;
pub use pipe::make_pipe;
pub use processes::{Process, processes_with};
pub use programs::program;
pub use server::{Setup, TestServer};
pub use wait::{wait_for, wait_for_some};
