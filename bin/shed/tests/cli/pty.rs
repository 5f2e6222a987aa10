//! A pseudo-terminal of which the test is the user.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    process::{Child, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{FdFlags, fcntl_setfd},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{exec::PATIENCE, user::User};

/// Both ends of a pseudo-terminal.
pub(crate) struct Pty {
    master: OwnedFd,
    pub(crate) slave: File,
}

impl Pty {
    pub(crate) fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        // Not every system has a flag for it.
        fcntl_setfd(&master, FdFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).unwrap();
        let pty = Self { master, slave };
        pty.resize(40, 120);
        pty
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).unwrap();
    }

    pub(crate) fn spawn(&self, user: &User, arguments: &[&str]) -> Child {
        let end = || Stdio::from(self.slave.try_clone().unwrap());
        user.command(arguments)
            .env("TERM", "vt220")
            .env("NO_COLOR", "1")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap()
    }

    /// Returns whether the terminal hands keys on one by one, without an echo.
    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    pub(crate) fn types(&self, keys: &[u8]) {
        File::from(self.master.try_clone().unwrap()).write_all(keys).unwrap();
    }

    /// Reads all there is until the last of it is this text, however much that is.
    pub(crate) fn drains_to(&self, text: &str) {
        let mut master = File::from(self.master.try_clone().unwrap());
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !seen.ends_with(text.as_bytes()) {
            let patience = Timespec::try_from(PATIENCE).unwrap();
            let ready = poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&patience)).unwrap();
            let end = String::from_utf8_lossy(&seen[seen.len().saturating_sub(200)..]).into_owned();
            assert!(ready == 1, "{text:?} does not follow {end:?}");
            let count = master.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..count]);
        }
    }

    /// Reads what the terminal shows, up to this text.
    pub(crate) fn shows(&self, text: &str) -> String {
        let mut master = File::from(self.master.try_clone().unwrap());
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(text.as_bytes()) {
            let patience = Timespec::try_from(PATIENCE).unwrap();
            let ready = poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&patience)).unwrap();
            assert!(ready == 1, "{text:?} does not follow {:?}", String::from_utf8_lossy(&seen));
            master.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }
}
