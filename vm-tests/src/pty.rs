//! Runs a program on a terminal of its own, as a person would.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{kill_process, process::code_of, wait_for};

/// A program and the terminal it runs on.
#[derive(Debug)]
pub struct Pty {
    child: Child,
    master: File,
    /// Kept open, so that the terminal's modes can be read after the program has ended.
    slave: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

/// Nothing that a program writes.
const END_MARK: &str = "\u{1}the end of this output\u{1}";

impl Pty {
    /// Starts `program` with `arguments` on a new terminal; `prepare` sets its environment.
    ///
    /// # Panics
    /// When there is no terminal to be had, or the program cannot be started.
    #[track_caller]
    pub fn spawn(arguments: &[&str], rows: u16, columns: u16, prepare: impl FnOnce(&mut Command)) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("a terminal of our own");
        unlockpt(&master).expect("a terminal that opens");
        let name = ptsname(&master, Vec::new()).expect("a terminal's name");
        let slave = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .expect("the terminal's other end");
        let copy = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
        resize(&master, rows, columns);
        // setsid(1) makes the terminal on stdin the controlling one, which Ctrl-C and resizes need.
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(arguments);
        command.stdin(copy(&slave)).stdout(copy(&slave)).stderr(Stdio::from(copy(&slave)));
        prepare(&mut command);
        let child = command.spawn().expect("setsid, of util-linux");
        let mut reader = File::from(copy(&master));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        // Ends with an error (EIO) when the last holder of the other end has closed it.
        let _gatherer = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                sink.lock().expect("nobody panics with it").extend_from_slice(&buffer[..length]);
            }
        });
        Self { child, master: File::from(master), slave, seen }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.child.id(), signal);
    }

    /// Gives the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.master, rows, columns);
    }

    /// Returns all that was shown.
    #[must_use]
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("nobody panics with it")).into_owned()
    }

    /// Waits until `text` is shown.
    ///
    /// # Panics
    /// When it is not within `deadline`; the message has all that was.
    #[track_caller]
    pub fn wait_for(&self, text: &str, deadline: Duration) {
        let begun = std::time::Instant::now();
        let shown = wait_for(text, deadline * 2, || {
            let seen = self.screen().contains(text);
            (seen || begun.elapsed() > deadline).then_some(seen)
        });
        assert!(shown, "no {text:?} on the terminal within {deadline:?}; it shows {:?}", self.screen());
    }

    /// Returns the terminal's modes.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn modes(&self) -> Termios {
        tcgetattr(&self.slave).expect("the terminal's modes")
    }

    /// Waits until the program ends, and returns its exit code.
    ///
    /// # Panics
    /// When it does not within `deadline`.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> i32 {
        let status = wait_for("the program on the terminal to end", deadline, || {
            self.child.try_wait().expect("a child of ours")
        });
        self.wait_for_the_rest(deadline);
        code_of(status)
    }

    /// Waits until all that the program wrote is seen: a terminal is a queue, and a mark behind it comes last.
    #[track_caller]
    fn wait_for_the_rest(&self, deadline: Duration) {
        rustix::io::write(&self.slave, END_MARK.as_bytes()).expect("the terminal takes output");
        self.wait_for(END_MARK, deadline);
        let mut seen = self.seen.lock().expect("nobody panics with it");
        let shown = seen.len() - END_MARK.len();
        seen.truncate(shown);
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
            let _status = self.child.wait();
        }
    }
}

fn resize(master: &impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("the terminal takes a size");
}
