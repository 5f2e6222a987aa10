//! tmux sessions: of one shed, of all, and the end of one (spec A.5).

use axum::{
    Json,
    extract::{FromRequestParts, Path, State, path::ErrorKind, rejection::PathRejection},
    http::{StatusCode, request::Parts},
};
use shed_api::{ErrorCode, SessionList};
use shed_types::{ParseNameError, SessionName, ShedName};

use super::{
    ApiError, App,
    extract::{NamedShed, ShedNameParam, path_param},
    openapi::{OnlyCommon, error_responses},
    wire,
};

error_responses! {
    /// Failures of a list of one shed's sessions.
    ListErrors: InvalidShedName, ShedNotFound, ShedAlreadyStopped, BackendError, ConnectFailed, TmuxNotAvailable
}

error_responses! {
    /// Failures of the end of a session.
    KillErrors: InvalidShedName, InvalidSessionName, ShedNotFound, SessionNotFound, ShedAlreadyStopped, BackendError,
        ConnectFailed, TmuxNotAvailable
}

/// The parameter of a path that names a session.
const SESSION: &str = "session";

/// Describes `{session}` in the path of a session.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it describes what NamedSession reads")]
pub(super) struct SessionNameParam {
    /// Name of the session: letters, digits, hyphens and underscores, beginning with a letter or digit.
    #[param(pattern = "^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length = 63)]
    session: String,
}

/// The shed and the session that a path names, checked in this order.
#[derive(Debug)]
pub(super) struct NamedSession {
    shed: ShedName,
    session: SessionName,
}

impl<S: Send + Sync> FromRequestParts<S> for NamedSession {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let invalid = |error: &(dyn std::error::Error + 'static)| {
            ApiError::from_chain(ErrorCode::InvalidSessionName, error)
        };
        // A segment that is no UTF-8 spoils the others, too: the shed's name could not be read for it.
        if let Err(PathRejection::FailedToDeserializePathParams(error)) =
            Path::<Vec<(String, String)>>::from_request_parts(parts, state).await
            && matches!(error.kind(), ErrorKind::InvalidUtf8InPathParam { key } if key == SESSION)
        {
            return Err(invalid(&error));
        }
        let NamedShed(shed) = NamedShed::from_request_parts(parts, state).await?;
        let text = path_param(parts, state, SESSION, ErrorCode::InvalidSessionName).await?;
        let session = text.parse().map_err(|error: ParseNameError| invalid(&error))?;
        Ok(Self { shed, session })
    }
}

/// List the tmux sessions of a shed
///
/// They are those of user `shed`. Without any the list is empty.
#[utoipa::path(
    get,
    path = "/api/sheds/{name}/sessions",
    operation_id = "list_shed_sessions",
    tag = "sessions",
    params(ShedNameParam),
    responses((status = 200, description = "The sessions, sorted by name.", body = SessionList), ListErrors)
)]
pub(super) async fn list(
    State(app): State<App>,
    NamedShed(name): NamedShed,
) -> Result<Json<SessionList>, ApiError> {
    let sessions = app.sheds.sessions(&name).await?;
    let sessions = sessions.into_iter().map(|session| wire::session(&name, session)).collect();
    Ok(Json(SessionList { sessions, warnings: Vec::new() }))
}

/// List the tmux sessions of all running sheds
///
/// A shed whose sessions cannot be found out is left out and named in `warnings`. One without tmux has none.
#[utoipa::path(
    get,
    path = "/api/sessions",
    operation_id = "list_sessions",
    tag = "sessions",
    responses((status = 200, description = "The sessions, sorted by shed and name.", body = SessionList), OnlyCommon)
)]
pub(super) async fn list_all(State(app): State<App>) -> Json<SessionList> {
    let all = app.sheds.all_sessions().await;
    let sessions = all.sessions.into_iter().map(|(shed, session)| wire::session(&shed, session)).collect();
    Json(SessionList { sessions, warnings: all.warnings })
}

/// End a tmux session
///
/// What runs in it ends, too.
#[utoipa::path(
    delete,
    path = "/api/sheds/{name}/sessions/{session}",
    operation_id = "kill_session",
    tag = "sessions",
    params(ShedNameParam, SessionNameParam),
    responses((status = 204, description = "The session has ended."), KillErrors)
)]
pub(super) async fn kill(
    State(app): State<App>,
    NamedSession { shed, session }: NamedSession,
) -> Result<StatusCode, ApiError> {
    app.sheds.kill_session(&shed, &session).await?;
    Ok(StatusCode::NO_CONTENT)
}
