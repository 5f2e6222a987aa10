//! Directories of this host for the machine, each served by 9P by a process of its own, as the server does it.

use std::{
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use camino::Utf8Path;
use rustix::process::Signal;
use shed_types::GuestPort;
use tokio::io::AsyncWriteExt;

use super::VsockMachine;
use crate::{SHORT, kill_process};

/// A process that serves a directory. It ends with the value.
#[derive(Debug)]
pub struct Share(Child);

impl VsockMachine {
    /// Serves a directory under a tag; the guest mounts it when it is told. `program` is `shed-ninep-share` of this
    /// package, `options` are its own.
    ///
    /// # Panics
    /// When the guest does not take the stream, or the program cannot be started.
    #[track_caller]
    #[must_use]
    pub fn share(&self, program: &str, tag: &str, dir: &Utf8Path, options: &[&str]) -> Share {
        let mut stream = self.connect(GuestPort::NineP);
        let greeting = format!("{tag}\n");
        self.wait("a tag to be sent", SHORT, stream.write_all(greeting.as_bytes())).expect("a stream");
        let stream = stream.into_std().expect("a socket");
        stream.set_nonblocking(false).expect("a socket");
        let child =
            Command::new(program).arg(dir).args(options).stdin(Stdio::from(OwnedFd::from(stream))).spawn();
        Share(child.unwrap_or_else(|error| panic!("cannot run {program}: {error}")))
    }
}

impl Share {
    /// Kills the process and waits until it is gone.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn kill(&mut self) {
        kill_process(self.0.id(), Signal::KILL);
        let _status = self.0.wait().expect("a child");
    }

    /// Whether the process has ended by itself.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_some()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.kill();
    }
}
