//! How the server says, in the exec subsystem, that there will be no command: an exit status with a reason that the
//! client can act on. The server makes them, the command line reads them.

use serde::{Deserialize, Serialize};
use shed_api::ErrorCode;
use shed_protocol::{Frame, FrameKind};

/// Exit code that goes with a refusal, for a client that reads the frame as a plain exit status; that of ssh(1) when
/// it fails itself.
const EXIT_CODE: i32 = 255;

/// Why there is no command: what the HTTP API would answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code of the API; none when a newer server has made it up.
    pub code: Option<ErrorCode>,
    /// For people: the object, what was tried, the cause.
    pub message: String,
}

/// The payload: an exit status of the agent with one more key, which the agent never sends.
#[derive(Serialize, Deserialize)]
struct Wire {
    code: i32,
    error: String,
    refusal: String,
}

impl Refusal {
    /// Makes a refusal.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: Some(code), message: message.into() }
    }

    /// Returns the frame that ends the exec stream.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        let refusal = self.code.unwrap_or(ErrorCode::InternalError).as_str().to_owned();
        let wire = Wire { code: EXIT_CODE, error: self.message.clone(), refusal };
        Frame::json(FrameKind::ExitStatus, &wire)
    }

    /// Reads a frame; none when it is no refusal, and so the command's own exit status or something else.
    #[must_use]
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        if frame.kind != FrameKind::ExitStatus {
            return None;
        }
        let wire: Wire = frame.parse().ok()?;
        Some(Self { code: ErrorCode::from_wire(&wire.refusal), message: wire.error })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shed_protocol::ExitStatus;

    use super::*;

    #[test]
    fn a_refusal_is_an_exit_status_to_whoever_does_not_know_it() {
        let refusal = Refusal::new(ErrorCode::ShedNotFound, "there is no shed web");
        let frame = refusal.to_frame();
        assert_eq!(
            frame.payload,
            r#"{"code":255,"error":"there is no shed web","refusal":"SHED_NOT_FOUND"}"#
        );
        assert_eq!(Refusal::from_frame(&frame), Some(refusal));
        assert_eq!(frame.parse::<ExitStatus>().unwrap(), ExitStatus::failed(255, "there is no shed web"));
    }

    #[test]
    fn the_status_of_a_command_is_no_refusal() {
        let status = Frame::json(FrameKind::ExitStatus, &ExitStatus::failed(127, "no such command"));
        assert_eq!(Refusal::from_frame(&status), None);
        let data = Frame::new(FrameKind::Data, Bytes::from_static(br#"{"code":1,"error":"","refusal":""}"#));
        assert_eq!(Refusal::from_frame(&data), None);
    }

    #[test]
    fn a_code_of_a_newer_server_is_read_without_it() {
        let payload = br#"{"code":255,"error":"no","refusal":"MOON_PHASE","extra":1}"#;
        let frame = Frame::new(FrameKind::ExitStatus, Bytes::from_static(payload));
        assert_eq!(Refusal::from_frame(&frame), Some(Refusal { code: None, message: "no".to_owned() }));
    }
}
