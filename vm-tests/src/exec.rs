//! The exec stream of the API, frame by frame; proper requests and hostile ones alike (spec B.2, B.3).

use std::{
    io::{self, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

/// Type bytes of frames.
pub mod kind {
    /// Asks for a command; first.
    pub const EXEC: u8 = 0x01;
    /// Gives the terminal a size.
    pub const RESIZE: u8 = 0x02;
    /// Sends a signal.
    pub const SIGNAL: u8 = 0x03;
    /// How the command ended; last.
    pub const EXIT: u8 = 0x04;
    /// stdin there, stdout back.
    pub const DATA: u8 = 0x05;
    /// stdin has ended.
    pub const STDIN_EOF: u8 = 0x06;
    /// stderr back.
    pub const STDERR: u8 = 0x07;
}

/// A frame as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// One of [`kind`], or something that no peer knows.
    pub kind: u8,
    /// As announced.
    pub payload: Vec<u8>,
}

/// How an exec stream went.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: Vec<u8>,
    /// The exit frame's payload, when one came before the stream's end.
    pub exit: Option<Value>,
}

impl Outcome {
    /// Returns the exit code, when there was one.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        self.exit.as_ref()?["code"].as_i64()
    }
}

/// Makes the payload of an exec request for a command without a terminal.
#[must_use]
pub fn exec_request(cmd: &[&str]) -> Value {
    json!({ "cmd": cmd, "tty": false, "rows": 0, "cols": 0 })
}

/// A connection after its upgrade.
#[derive(Debug)]
pub struct ExecStream {
    reader: BufReader<TcpStream>,
}

impl ExecStream {
    pub(crate) fn new(reader: BufReader<TcpStream>) -> Self {
        Self { reader }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the server has closed.
    pub fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.send_bytes(&bytes)
    }

    /// Sends bytes that need not be a frame.
    ///
    /// # Errors
    /// When the server has closed.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends an exec request.
    ///
    /// # Panics
    /// When the server has closed.
    #[track_caller]
    pub fn request(&mut self, request: &Value) {
        self.send(kind::EXEC, request.to_string().as_bytes()).expect("the server takes an exec request");
    }

    /// Closes the sending side.
    pub fn shut(&self) {
        let _closed = self.reader.get_ref().shutdown(Shutdown::Write);
    }

    /// Closes both sides without having read what came, as a client that crashes does.
    pub fn reset(self) {
        let _closed = self.reader.get_ref().shutdown(Shutdown::Both);
    }

    /// Reads the next frame; nothing at the end of the stream.
    ///
    /// # Errors
    /// When the stream breaks inside a frame or says nothing for half a minute.
    pub fn next_frame(&mut self) -> io::Result<Option<RawFrame>> {
        self.reader.get_ref().set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut header = [0; 5];
        match self.reader.read(&mut header[..1]) {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        self.reader.read_exact(&mut header[1..])?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.reader.read_exact(&mut payload)?;
        Ok(Some(RawFrame { kind: header[0], payload }))
    }

    /// Reads to the end of the stream.
    ///
    /// # Panics
    /// When it breaks inside a frame, or goes on after the exit frame.
    #[track_caller]
    #[must_use]
    pub fn outcome(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(frame) = self.next_frame().expect("whole frames, then the end") {
            assert!(outcome.exit.is_none(), "the exit frame is the last one, but then came {frame:?}");
            match frame.kind {
                kind::DATA => outcome.stdout.extend(frame.payload),
                kind::STDERR => outcome.stderr.extend(frame.payload),
                kind::EXIT => outcome.exit = Some(serde_json::from_slice(&frame.payload).expect("JSON")),
                _ => {}
            }
        }
        outcome
    }
}
