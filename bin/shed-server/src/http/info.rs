//! `GET /api/info`: the server about itself (spec A.3).

use axum::{Json, extract::State};
use shed_api::ServerInfo;

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
