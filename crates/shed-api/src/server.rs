//! The server about itself (spec A.3).

use serde::{Deserialize, Serialize};

/// Body of `GET /api/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    /// Where the server keeps images, on its host; for tools on the same host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_dir: Option<String>,
}

/// Body of `GET /api/ssh-host-key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshHostKey {
    /// The public key of the server's SSH server, as a line of `authorized_keys` has it: type and base64.
    pub host_key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_example_reads_and_writes_back() {
        crate::golden::check::<ServerInfo>(include_str!("../fixtures/info.json"));
        crate::golden::check::<SshHostKey>(include_str!("../fixtures/ssh-host-key.json"));
    }
}
