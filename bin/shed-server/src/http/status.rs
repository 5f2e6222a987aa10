//! How a shed and its guest are: once, or as it changes.

use axum::{Json, extract::State, response::Response};
use shed_api::{ErrorCode, GuestEvent, ShedEvent, StatusReport};
use shed_lifecycle::{ShedNews, ShedWatch};
use shed_types::ShedName;

use super::{
    ApiError, App,
    event_stream::{StreamEvent, Teller, Told, take_place, tell},
    extract::{NamedShed, ShedNameParam},
    openapi::error_responses,
    status_wire, wire,
};

error_responses! {
    /// Failures of a look at how a shed is.
    StatusErrors: InvalidShedName, ShedNotFound
}

error_responses! {
    /// Failures of a watch.
    EventsErrors: InvalidShedName, ShedNotFound, ConnectFailed
}

/// Get how a shed is
///
/// A running guest is asked, for two seconds at most; one that does not answer is shown as it was, with the time of its last
/// word in `last_healthy`.
#[utoipa::path(
    get,
    path = "/api/sheds/{name}/status",
    operation_id = "shed_status",
    tag = "sheds",
    params(ShedNameParam),
    responses((status = 200, description = "How the shed is.", body = StatusReport), StatusErrors)
)]
pub(super) async fn status(
    State(app): State<App>,
    NamedShed(name): NamedShed,
) -> Result<Json<StatusReport>, ApiError> {
    match app.sheds.status(&name).await {
        Some(report) => Ok(Json(status_wire::report(report))),
        None => Err(not_found(&name)),
    }
}

/// Watch a shed
///
/// Server-sent events: `status` (a `StatusReport`) at once and whenever the guest has told how it is, every 2 s while
/// somebody watches; `state` (a `Shed`) when the shed itself changes; `event` (a `GuestEvent`) when something happens in the
/// guest. The last one is `error` (an `ErrorDetail`): `SHED_NOT_FOUND` when the shed is gone, `SHUTTING_DOWN` when the server
/// ends.
#[utoipa::path(
    get,
    path = "/api/sheds/{name}/events",
    operation_id = "shed_events",
    tag = "sheds",
    params(ShedNameParam),
    responses(
        (
            status = 200,
            description = "News of the shed, as they come.",
            content((StreamEvent = "text/event-stream"))
        ),
        EventsErrors
    )
)]
pub(super) async fn events(State(app): State<App>, NamedShed(name): NamedShed) -> Result<Response, ApiError> {
    let watch = app.sheds.events(&name).ok_or_else(|| not_found(&name))?;
    let place = take_place(&app)?;
    Ok(tell(&app, place, News { name, watch }))
}

struct News {
    name: ShedName,
    watch: ShedWatch,
}

impl Teller for News {
    async fn next(&mut self) -> Told {
        let event = match self.watch.next().await {
            Some(ShedNews::Report(report)) => ShedEvent::Status(Box::new(status_wire::report(*report))),
            Some(ShedNews::Shed(view)) => ShedEvent::State(Box::new(wire::shed(*view))),
            Some(ShedNews::Event(event)) => {
                let event: GuestEvent = status_wire::event(event);
                ShedEvent::Event(Box::new(event))
            }
            None => return Told::failed(not_found(&self.name)),
        };
        Told::Event(event.name(), event.data())
    }
}

fn not_found(name: &ShedName) -> ApiError {
    ApiError::new(ErrorCode::ShedNotFound, format!("there is no shed named `{name}`"))
}
