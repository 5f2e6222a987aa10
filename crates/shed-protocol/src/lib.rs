//! What host and guest say to each other, as pure functions over bytes.
//!
//! Used by the agent in the guest and, on the host, by backends, lifecycle, server and CLI. Nothing here opens a
//! stream or waits: [`FrameCodec`] turns bytes into frames and back, the other modules turn payloads into types.
//! Both sides treat the other as untrusted: every length is bounded before memory is taken for it.
//!
//! Numbers and layouts are those of the behaviour specification, section B. Messages change only by adding; the
//! golden files in `tests/` keep what was once sent readable for ever.

pub mod agent_word;
pub mod connect;
pub mod credentials;
pub mod exec;
pub mod files;
pub mod frame;
pub mod guest_event;
pub mod image;
pub mod logs;
pub mod message;
pub mod metrics;
pub mod publish;
pub mod setup;
pub mod timeouts;

pub use agent_word::AgentWord;
pub use connect::{ConnectReply, ParseConnectError};
pub use credentials::{
    CredentialChanged, CredentialTaken, CredentialsWatched, WatchCredentials, WatchedCredential,
};
pub use exec::{Command, ExecRequest, ExitStatus, Resize, Signal};
pub use files::{FilesError, FilesErrorKind, FilesReply, FilesRequest};
pub use frame::{Frame, FrameCodec, FrameError, FrameKind, MAX_PAYLOAD};
pub use guest_event::GuestEvent;
pub use image::{ImageConfig, MAX_COMMAND, MAX_DIRECTORY, MAX_ENV, MAX_USER};
pub use logs::{CloseLogs, LogEntries, LogEntry, LogsOpened, LogsRefusal, NextLogs, OpenLogs};
pub use message::{
    Envelope, EnvelopeKind, ExtensionInGuest, ExtensionOnHost, ExtensionReport, Feature, GENERATION,
    HealthReport, HealthRequest, HealthStatus, HelloReply, HelloRequest, Identify, Mount, MountKind,
    NetworkIdentity, Origin, PowerOff, SYSTEM_CREDENTIALS, SYSTEM_CREDENTIALS_TAKEN, SYSTEM_EVENT,
    SYSTEM_HEALTH, SYSTEM_HELLO, SYSTEM_IDENTIFY, SYSTEM_LOGS_CLOSE, SYSTEM_LOGS_NEXT, SYSTEM_LOGS_OPEN,
    SYSTEM_POWER_OFF,
};
pub use metrics::Metrics;
pub use publish::{PublishErrorCode, PublishRequest};
pub use setup::{
    CloneRequest, Failure, Occasion, SetupEvent, SetupReply, SetupReport, SetupRequest, Step, StepEnd,
    StepReport,
};
