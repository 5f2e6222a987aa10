//! List, get, delete, start and stop (spec A.4).

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use shed_api::{ErrorCode, Shed, ShedList};
use shed_lifecycle::Progress;

use super::{
    ApiError, App,
    extract::{NamedShed, ReplyForm},
    sse, wire,
};

pub(super) async fn list(State(app): State<App>) -> Json<ShedList> {
    Json(ShedList { sheds: app.sheds.list().into_iter().map(wire::shed).collect() })
}

pub(super) async fn get(State(app): State<App>, NamedShed(name): NamedShed) -> Result<Json<Shed>, ApiError> {
    match app.sheds.get(&name) {
        Some(view) => Ok(Json(wire::shed(view))),
        None => Err(ApiError::new(ErrorCode::ShedNotFound, format!("there is no shed named `{name}`"))),
    }
}

/// The query `keep_volume` is accepted and has no effect: the disk of a machine has no life of its own.
pub(super) async fn delete(
    State(app): State<App>,
    NamedShed(name): NamedShed,
) -> Result<StatusCode, ApiError> {
    app.sheds.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A start belongs to the shed, not to the request: it goes on when the client goes away.
pub(super) async fn start(
    State(app): State<App>,
    NamedShed(name): NamedShed,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    match ReplyForm::of(&headers) {
        ReplyForm::Json => {
            let started = app.sheds.start(&name, Progress::silent()).await?;
            Ok(Json(wire::started(started, &[])).into_response())
        }
        ReplyForm::Events => {
            let (progress, updates) = Progress::channel();
            let work = async move { app.sheds.start(&name, progress).await.map_err(ApiError::from) };
            Ok(sse::respond(work, updates, Vec::new()))
        }
    }
}

pub(super) async fn stop(State(app): State<App>, NamedShed(name): NamedShed) -> Result<Json<Shed>, ApiError> {
    Ok(Json(wire::shed(app.sheds.stop(&name).await?)))
}
