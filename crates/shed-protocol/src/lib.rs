//! What host and guest say to each other, as pure functions over bytes.
//!
//! Used by the agent in the guest and, on the host, by backends, lifecycle, server and CLI. Nothing here opens a
//! stream or waits: [`FrameCodec`] turns bytes into frames and back, the other modules turn payloads into types.
//! Both sides treat the other as untrusted: every length is bounded before memory is taken for it.
//!
//! Numbers and layouts are those of the behaviour specification, section B. Messages change only by adding; the
//! golden files in `tests/` keep what was once sent readable for ever.

pub mod connect;
pub mod exec;
pub mod files;
pub mod frame;
pub mod image;
pub mod message;
pub mod timeouts;

pub use connect::{ConnectReply, ParseConnectError};
pub use exec::{Command, ExecRequest, ExitStatus, Resize, Signal};
pub use files::{FilesError, FilesErrorKind, FilesReply, FilesRequest};
pub use frame::{Frame, FrameCodec, FrameError, FrameKind, MAX_PAYLOAD};
pub use image::{ImageConfig, MAX_COMMAND, MAX_DIRECTORY, MAX_ENV, MAX_USER};
pub use message::{
    Envelope, EnvelopeKind, Feature, GENERATION, HealthReport, HealthStatus, HelloReply, HelloRequest,
    Identify, NetworkIdentity, PowerOff, SYSTEM_HEALTH, SYSTEM_HELLO, SYSTEM_IDENTIFY, SYSTEM_POWER_OFF,
};
