//! `GET /api/info`: the server about itself (spec A.3).

use axum::{Json, extract::State};
use shed_api::ServerInfo;

use super::App;

pub(super) async fn info(State(app): State<App>) -> Json<ServerInfo> {
    Json(ServerInfo::clone(&app.info))
}
