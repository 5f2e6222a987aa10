//! From typed errors to codes and replies: the one table, and the one place that prints a chain of errors.

use std::error::Error;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use shed_api::{ErrorBody, ErrorCode, ErrorDetail};
use shed_lifecycle::{
    BootShedError, CreateShedError, DeleteShedError, GuestCommandError, KillSessionError, ListSessionsError,
    ReachGuestError, StartShedError, StopShedError, TmuxError,
};
use shed_types::error_chain;

/// A refusal or failure on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// What the client may act on; it decides the status.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// Makes an error from a code and a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Makes an error from a code and everything a typed error says, down to its first cause.
    pub(super) fn from_chain(code: ErrorCode, error: &(dyn Error + 'static)) -> Self {
        Self { code, message: error_chain(error) }
    }

    /// Returns the error as the data of an `error` event.
    pub(super) fn into_detail(self) -> ErrorDetail {
        ErrorDetail::new(self.code, self.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code.status()).expect("the table of codes holds HTTP statuses only");
        if status.is_server_error() {
            tracing::warn!(code = %self.code, reason = %self.message, "request failed");
        }
        (status, Json(ErrorBody { error: self.into_detail() })).into_response()
    }
}

impl From<CreateShedError> for ApiError {
    fn from(error: CreateShedError) -> Self {
        let code = match &error {
            CreateShedError::AlreadyExists { .. } | CreateShedError::Occupied { .. } => {
                ErrorCode::ShedAlreadyExists
            }
            CreateShedError::UnknownImage { .. }
            | CreateShedError::NoDefaultImage { .. }
            | CreateShedError::ImageFileMissing { .. }
            | CreateShedError::ImagePath(_) => ErrorCode::UnknownImage,
            CreateShedError::PullImage { .. } | CreateShedError::ImageVanished { .. } => {
                ErrorCode::ImagePullFailed
            }
            CreateShedError::ListImages(_) => ErrorCode::BackendError,
            CreateShedError::GuestFileMissing { .. } | CreateShedError::Shares { .. } => {
                ErrorCode::BackendError
            }
            CreateShedError::Boot(boot) => boot_code(boot),
            CreateShedError::ShuttingDown => ErrorCode::ShuttingDown,
        };
        Self::from_chain(code, &error)
    }
}

impl From<StartShedError> for ApiError {
    fn from(error: StartShedError) -> Self {
        let code = match &error {
            StartShedError::NotFound { .. } => ErrorCode::ShedNotFound,
            StartShedError::AlreadyRunning { .. } => ErrorCode::ShedAlreadyRunning,
            StartShedError::Busy { .. } => ErrorCode::ShedBusy,
            StartShedError::Broken { .. } => ErrorCode::BackendError,
            StartShedError::Boot(boot) => boot_code(boot),
            StartShedError::ShuttingDown => ErrorCode::ShuttingDown,
        };
        Self::from_chain(code, &error)
    }
}

impl From<StopShedError> for ApiError {
    fn from(error: StopShedError) -> Self {
        let code = match &error {
            StopShedError::NotFound { .. } => ErrorCode::ShedNotFound,
            StopShedError::AlreadyStopped { .. } => ErrorCode::ShedAlreadyStopped,
            StopShedError::Busy { .. } => ErrorCode::ShedBusy,
            StopShedError::Clear(_) => ErrorCode::BackendError,
            StopShedError::ShuttingDown => ErrorCode::ShuttingDown,
        };
        Self::from_chain(code, &error)
    }
}

impl From<DeleteShedError> for ApiError {
    fn from(error: DeleteShedError) -> Self {
        let code = match &error {
            DeleteShedError::NotFound { .. } => ErrorCode::ShedNotFound,
            DeleteShedError::Clear(_) | DeleteShedError::Remove { .. } => ErrorCode::BackendError,
            DeleteShedError::ShuttingDown => ErrorCode::ShuttingDown,
        };
        Self::from_chain(code, &error)
    }
}

impl From<ReachGuestError> for ApiError {
    fn from(error: ReachGuestError) -> Self {
        let code = match &error {
            ReachGuestError::NotFound { .. } => ErrorCode::ShedNotFound,
            ReachGuestError::NotRunning { .. } => ErrorCode::ShedNotRunning,
            ReachGuestError::NoAnswer { .. } | ReachGuestError::Connect { .. } => ErrorCode::ConnectFailed,
        };
        Self::from_chain(code, &error)
    }
}

impl From<ListSessionsError> for ApiError {
    fn from(error: ListSessionsError) -> Self {
        let code = match &error {
            ListSessionsError::NotFound { .. } => ErrorCode::ShedNotFound,
            ListSessionsError::NotRunning { .. } => ErrorCode::ShedAlreadyStopped,
            ListSessionsError::Tmux(tmux) => tmux_code(tmux),
            ListSessionsError::Unreadable { .. } => ErrorCode::BackendError,
        };
        Self::from_chain(code, &error)
    }
}

impl From<KillSessionError> for ApiError {
    fn from(error: KillSessionError) -> Self {
        let code = match &error {
            KillSessionError::NotFound { .. } => ErrorCode::ShedNotFound,
            KillSessionError::NotRunning { .. } => ErrorCode::ShedAlreadyStopped,
            KillSessionError::SessionNotFound { .. } => ErrorCode::SessionNotFound,
            KillSessionError::Tmux(tmux) => tmux_code(tmux),
        };
        Self::from_chain(code, &error)
    }
}

fn tmux_code(error: &TmuxError) -> ErrorCode {
    match error {
        TmuxError::NotAvailable { .. } => ErrorCode::TmuxNotAvailable,
        TmuxError::Failed { .. } | TmuxError::Guest(GuestCommandError::TooMuchOutput { .. }) => {
            ErrorCode::BackendError
        }
        TmuxError::Guest(
            GuestCommandError::Reach(_)
            | GuestCommandError::NoEnd { .. }
            | GuestCommandError::HungUp { .. }
            | GuestCommandError::Broken { .. }
            | GuestCommandError::Unreadable { .. },
        ) => ErrorCode::ConnectFailed,
    }
}

fn boot_code(error: &BootShedError) -> ErrorCode {
    match error {
        // Somebody stopped or deleted the shed meanwhile.
        BootShedError::Cancelled { .. } => ErrorCode::ShedBusy,
        BootShedError::Record { .. } => ErrorCode::InternalError,
        BootShedError::LocalDir { .. } => ErrorCode::InvalidLocalDir,
        BootShedError::Network { .. } => ErrorCode::BackendError,
        BootShedError::Disk { .. }
        | BootShedError::Start { .. }
        | BootShedError::TimedOut { .. }
        | BootShedError::Stalled { .. }
        | BootShedError::Ended { .. }
        | BootShedError::Agent { .. } => ErrorCode::BackendError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lifecycle_error_has_the_code_of_the_specification() {
        let shed: shed_types::ShedName = "api".parse().unwrap();
        let code = |error: ApiError| (error.code.as_str(), error.code.status());
        let exists = CreateShedError::AlreadyExists { shed: shed.clone() };
        assert_eq!(code(exists.into()), ("SHED_ALREADY_EXISTS", 409));
        let image = CreateShedError::UnknownImage { image: "x".parse().unwrap(), available: vec![] };
        assert_eq!(code(image.into()), ("UNKNOWN_IMAGE", 400));
        let none = CreateShedError::NoDefaultImage { path: "/x".into(), available: vec![] };
        assert_eq!(code(none.into()), ("UNKNOWN_IMAGE", 400));
        let missing = CreateShedError::GuestFileMissing { what: "the kernel", path: "/x".into() };
        assert_eq!(code(missing.into()), ("BACKEND_ERROR", 500));
        let cancelled = BootShedError::Cancelled { shed: shed.clone() };
        assert_eq!(code(CreateShedError::Boot(cancelled.into()).into()), ("SHED_BUSY", 409));
        assert_eq!(code(CreateShedError::ShuttingDown.into()), ("SHUTTING_DOWN", 503));
        assert_eq!(code(StartShedError::NotFound { shed: shed.clone() }.into()), ("SHED_NOT_FOUND", 404));
        assert_eq!(
            code(StartShedError::AlreadyRunning { shed: shed.clone() }.into()),
            ("SHED_ALREADY_RUNNING", 409)
        );
        assert_eq!(
            code(StopShedError::AlreadyStopped { shed: shed.clone() }.into()),
            ("SHED_ALREADY_STOPPED", 409)
        );
        assert_eq!(code(DeleteShedError::NotFound { shed: shed.clone() }.into()), ("SHED_NOT_FOUND", 404));
        let status = shed_lifecycle::ShedStatus::Stopped;
        assert_eq!(
            code(ReachGuestError::NotRunning { shed: shed.clone(), status }.into()),
            ("SHED_NOT_RUNNING", 503)
        );
        let waited = std::time::Duration::from_secs(1);
        let no_answer = || ReachGuestError::NoAnswer { shed: shed.clone(), waited };
        assert_eq!(code(no_answer().into()), ("CONNECT_FAILED", 502));
        let stopped = ListSessionsError::NotRunning { shed: shed.clone(), status };
        assert_eq!(code(stopped.into()), ("SHED_ALREADY_STOPPED", 409));
        let stopped = KillSessionError::NotRunning { shed: shed.clone(), status };
        assert_eq!(code(stopped.into()), ("SHED_ALREADY_STOPPED", 409));
        let unknown = KillSessionError::SessionNotFound { shed: shed.clone(), session: "x".parse().unwrap() };
        assert_eq!(code(unknown.into()), ("SESSION_NOT_FOUND", 404));
        let bare = TmuxError::NotAvailable { shed: shed.clone(), reason: String::new() };
        assert_eq!(code(ListSessionsError::Tmux(bare).into()), ("TMUX_NOT_AVAILABLE", 503));
        let away = TmuxError::Guest(no_answer().into());
        assert_eq!(code(KillSessionError::Tmux(away).into()), ("CONNECT_FAILED", 502));
    }
}
