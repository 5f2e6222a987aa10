//! The wire types of the HTTP API: what `shed-server` sends and `shed-client` reads.
//!
//! Field names, omissions and codes are those of the HTTP API seed and behaviour specification section A; the
//! golden files in `fixtures/` hold the seed's example of each shape. The feature `openapi` adds what the server's API
//! document says of these types. Types here only describe; they decide nothing.
//! Servers refuse nothing they do not know in a request, and clients ignore what they do not know in a reply.

mod error_code;
mod files;
#[cfg(test)]
mod golden;
mod image;
mod logs;
mod plugin;
mod server;
mod session;
mod shed;
mod sse;
mod status;
mod system;
mod upgrade;

pub use error_code::{ErrorBody, ErrorCode, ErrorDetail};
pub use files::{FilesReport, TAR};
pub use image::{Image, ImageList, ImagePruneReport, ImageSource, PrunedBlobs};
pub use logs::{LogEvent, LogLine, MAX_LOG_LINES};
pub use plugin::{
    ExtensionInGuest, ExtensionOnHost, ExtensionState, PluginListener, PluginListenerList, PluginMessage,
    PluginMessageKind, PluginResponse, PluginShed, PluginShedList, PluginTarget,
};
pub use server::{ServerInfo, SshHostKey};
pub use session::{Session, SessionList};
pub use shed::{CreateShedRequest, PhaseTime, Shed, ShedList, ShedStatus};
pub use sse::{CreateEvent, ImageTransfer, ProgressEvent};
pub use status::{
    ChannelState, GuestEvent, GuestMetrics, HealthState, SetupStatus, SetupStep, ShedEvent, StatusReport,
    StepFailure,
};
pub use system::{
    DiskSize, FileKind, FileUsage, ImageUsage, PruneAction, PruneKind, PruneReport, PruneScope, PruneTotals,
    PrunedItem, ShedUsage, SkippedItem, SystemUsage, UsageTotals,
};
pub use upgrade::{UPGRADE_EXEC, UPGRADE_TCP};

/// First segment of every path of the API.
pub const API_PREFIX: &str = "/api";

/// Port of the HTTP API unless configured otherwise (spec K.1).
pub const DEFAULT_HTTP_PORT: u16 = 8080;

/// Port of the SSH server unless configured otherwise (spec K.1).
pub const DEFAULT_SSH_PORT: u16 = 2222;
