//! The wire types of the HTTP API: what `shed-server` sends and `shed-client` reads.
//!
//! Field names, omissions and codes are those of the HTTP API seed and behaviour specification section A; the
//! golden files in `fixtures/` hold one example of each shape. Types here only describe; they decide nothing.
//! Servers refuse nothing they do not know in a request, and clients ignore what they do not know in a reply.

mod error_code;
mod exec;
mod server;
mod shed;
mod sse;

pub use error_code::{ErrorBody, ErrorCode, ErrorDetail};
pub use exec::UPGRADE_EXEC;
pub use server::ServerInfo;
pub use shed::{CreateShedRequest, PhaseTime, Shed, ShedList, ShedStatus};
pub use sse::{CreateEvent, ProgressEvent};

/// First segment of every path of the API.
pub const API_PREFIX: &str = "/api";

/// Port of the HTTP API unless configured otherwise (spec K.1).
pub const DEFAULT_HTTP_PORT: u16 = 8080;

/// Port of the SSH server unless configured otherwise (spec K.1).
pub const DEFAULT_SSH_PORT: u16 = 2222;
