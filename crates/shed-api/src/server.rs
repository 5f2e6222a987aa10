//! The server about itself (spec A.3).

use serde::{Deserialize, Serialize};

/// Body of `GET /api/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The configured name.
    pub name: String,
    /// Version of the server.
    pub version: String,
    /// Port of its SSH server.
    pub ssh_port: u16,
    /// Port of this API.
    pub http_port: u16,
    /// The resolved backend, never `detect`.
    pub backend: String,
}
