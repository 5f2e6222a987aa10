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
    ending::unless_ending,
    extract::{NamedShed, ReplyForm, ShedNameParam},
    metrics::{counted, counted_start},
    openapi::{OnlyCommon, error_responses},
    query::KeepVolume,
    sse, wire,
};
use crate::metrics::Operation;

error_responses! {
    /// Failures of a look at one shed.
    GetErrors: InvalidShedName, ShedNotFound
}

error_responses! {
    /// Failures of a delete.
    DeleteErrors: InvalidShedName, ShedNotFound, BackendError
}

error_responses! {
    /// Failures of a start.
    StartErrors: InvalidShedName, InvalidLocalDir, ShedNotFound, ShedAlreadyRunning, ShedBusy, BackendError
}

error_responses! {
    /// Failures of a stop.
    StopErrors: InvalidShedName, ShedNotFound, ShedAlreadyStopped, ShedBusy, BackendError
}

/// List all sheds
#[utoipa::path(
    get,
    path = "/api/sheds",
    operation_id = "list_sheds",
    tag = "sheds",
    responses((status = 200, description = "The sheds, sorted by name.", body = ShedList), OnlyCommon)
)]
pub(super) async fn list(State(app): State<App>) -> Json<ShedList> {
    Json(ShedList { sheds: app.sheds.list().into_iter().map(wire::shed).collect() })
}

/// Get one shed
#[utoipa::path(
    get,
    path = "/api/sheds/{name}",
    operation_id = "get_shed",
    tag = "sheds",
    params(ShedNameParam),
    responses((status = 200, description = "The shed.", body = Shed), GetErrors)
)]
pub(super) async fn get(State(app): State<App>, NamedShed(name): NamedShed) -> Result<Json<Shed>, ApiError> {
    match app.sheds.get(&name) {
        Some(view) => Ok(Json(wire::shed(view))),
        None => Err(ApiError::new(ErrorCode::ShedNotFound, format!("there is no shed named `{name}`"))),
    }
}

/// Delete a shed and its data
///
/// A running shed is stopped first.
// The query is accepted and has no effect: the disk of a machine has no life of its own.
#[utoipa::path(
    delete,
    path = "/api/sheds/{name}",
    operation_id = "delete_shed",
    tag = "sheds",
    params(ShedNameParam, KeepVolume),
    responses((status = 204, description = "Nothing of the shed is left."), DeleteErrors)
)]
pub(super) async fn delete(
    State(app): State<App>,
    NamedShed(name): NamedShed,
    _: KeepVolume,
) -> Result<StatusCode, ApiError> {
    counted(&app.metrics, Operation::Delete, app.sheds.delete(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Start a stopped shed
///
/// The reply comes when the startup hook of its project has ended; commands can be run in it before. What fails after the
/// boot is in `warnings`. The start belongs to the shed, not to the request: it goes on when the client goes away. With
/// `Accept: text/event-stream` the reply is a stream of the events of a create.
#[utoipa::path(
    post,
    path = "/api/sheds/{name}/start",
    operation_id = "start_shed",
    tag = "sheds",
    params(ShedNameParam),
    responses(
        (
            status = 200,
            description = "The running shed; or, when events were asked for, what happens until it runs.",
            content((Shed = "application/json"), (String = "text/event-stream"))
        ),
        StartErrors
    )
)]
pub(super) async fn start(
    State(app): State<App>,
    NamedShed(name): NamedShed,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    match ReplyForm::of(&headers) {
        ReplyForm::Json => {
            let start = app.sheds.start(&name, Progress::silent());
            let started = counted_start(&app.metrics, Operation::Start, start).await?;
            Ok(Json(wire::started(started)).into_response())
        }
        ReplyForm::Events => {
            let (progress, updates) = Progress::channel();
            let give_up = app.give_up.clone();
            let work = async move {
                counted_start(&app.metrics, Operation::Start, app.sheds.start(&name, progress)).await
            };
            Ok(sse::respond(unless_ending(give_up, work), updates))
        }
    }
}

/// Stop a running shed
///
/// The project's shutdown hook runs first, for half of the server's `stop_timeout` at most. What it fails with, or that the
/// shed had to be switched off, is in `warnings`.
#[utoipa::path(
    post,
    path = "/api/sheds/{name}/stop",
    operation_id = "stop_shed",
    tag = "sheds",
    params(ShedNameParam),
    responses((status = 200, description = "The stopped shed.", body = Shed), StopErrors)
)]
pub(super) async fn stop(State(app): State<App>, NamedShed(name): NamedShed) -> Result<Json<Shed>, ApiError> {
    let stopped = counted(&app.metrics, Operation::Stop, app.sheds.stop(&name)).await?;
    Ok(Json(wire::stopped(stopped)))
}
