//! `GET /api/info` and `GET /api/ssh-host-key`: the server about itself (spec A.3).

use axum::{Json, extract::State};
use shed_api::{ServerInfo, SshHostKey};

use super::{App, openapi::OnlyCommon};

/// The server about itself
#[utoipa::path(
    get,
    path = "/api/info",
    tag = "server",
    responses((status = 200, description = "Name, version, ports and backend.", body = ServerInfo), OnlyCommon)
)]
pub(super) async fn info(State(app): State<App>) -> Json<ServerInfo> {
    Json(ServerInfo::clone(&app.info))
}

/// The public key of the SSH server
///
/// The same for as long as the server keeps its key file. Clients compare it with what they have in `known_hosts`.
#[utoipa::path(
    get,
    path = "/api/ssh-host-key",
    operation_id = "ssh_host_key",
    tag = "server",
    responses(
        (status = 200, description = "One line of `authorized_keys`, without a comment.", body = SshHostKey),
        OnlyCommon
    )
)]
pub(super) async fn ssh_host_key(State(app): State<App>) -> Json<SshHostKey> {
    Json(SshHostKey::clone(&app.host_key))
}
