//! Error codes, their status, and the body every error has (spec A.1, A.2). The one table of both.

use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($(#[doc = $doc:literal] $name:ident = $text:literal, $status:literal;)*) => {
        /// A stable error code; clients may act on it, people read the message beside it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $(#[doc = $doc] #[serde(rename = $text)] $name,)*
        }

        impl ErrorCode {
            /// Every code, for tables and tests.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the code as it is on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Returns the code with this text, unless a newer server made it up.
            #[must_use]
            pub fn from_wire(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }

            /// Returns the HTTP status that goes with the code.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Returns when the code is sent, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $doc.trim_ascii(),)* }
            }
        }
    };
}

error_codes! {
    /// The shed's name breaks the rules, or the body of a create cannot be read.
    InvalidShedName = "INVALID_SHED_NAME", 400;
    /// The repository is neither a shorthand nor an accepted URL.
    InvalidRepoUrl = "INVALID_REPO_URL", 400;
    /// The host directory cannot be shared.
    InvalidLocalDir = "INVALID_LOCAL_DIR", 400;
    /// The tmux session's name breaks the rules.
    InvalidSessionName = "INVALID_SESSION_NAME", 400;
    /// The port is no number from 1 to 65535.
    InvalidPort = "INVALID_PORT", 400;
    /// A parameter or body value is out of range or unreadable.
    InvalidRequest = "INVALID_REQUEST", 400;
    /// No image has this name, or the file that was named is none.
    UnknownImage = "UNKNOWN_IMAGE", 400;
    /// This server does not run the backend that was asked for.
    BackendNotEnabled = "BACKEND_NOT_ENABLED", 400;
    /// The namespace breaks the rules.
    InvalidNamespace = "INVALID_NAMESPACE", 400;
    /// The body of a response to a guest cannot be read.
    InvalidBody = "INVALID_BODY", 400;
    /// A response to a guest does not say which shed it is for.
    MissingShed = "MISSING_SHED", 400;
    /// The namespace is one of Shed's own.
    NamespaceReserved = "NAMESPACE_RESERVED", 403;
    /// The request comes from one of the server's own guests.
    Forbidden = "FORBIDDEN", 403;
    /// No shed has this name.
    ShedNotFound = "SHED_NOT_FOUND", 404;
    /// No cached image has this name.
    ImageNotFound = "IMAGE_NOT_FOUND", 404;
    /// The shed has no tmux session of this name.
    SessionNotFound = "SESSION_NOT_FOUND", 404;
    /// The shed has no such unit of systemd, and its journal nothing of one.
    UnitNotFound = "UNIT_NOT_FOUND", 404;
    /// No shed of this name has its message channel open.
    ShedNotConnected = "SHED_NOT_CONNECTED", 404;
    /// The shed waits for no such response: it was answered already, gave up, or never asked.
    RequestNotPending = "REQUEST_NOT_PENDING", 404;
    /// No such path.
    NotFound = "NOT_FOUND", 404;
    /// The path exists, but not with this method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405;
    /// The client took too long over its request.
    RequestTimeout = "REQUEST_TIMEOUT", 408;
    /// A shed of this name exists or is being created.
    ShedAlreadyExists = "SHED_ALREADY_EXISTS", 409;
    /// The shed runs already.
    ShedAlreadyRunning = "SHED_ALREADY_RUNNING", 409;
    /// The shed is stopped already, or has no sessions because it does not run.
    ShedAlreadyStopped = "SHED_ALREADY_STOPPED", 409;
    /// Somebody listens to this namespace already.
    NamespaceAlreadyRegistered = "NAMESPACE_ALREADY_REGISTERED", 409;
    /// Another request on this shed is in progress and excludes this one.
    ShedBusy = "SHED_BUSY", 409;
    /// The server's configuration names this image, sheds that name none are made from it, or something is being done with it at this moment.
    ImageInUse = "IMAGE_IN_USE", 409;
    /// The path in the shed cannot be written to: it is read-only, or something is in the way.
    TargetUnusable = "TARGET_UNUSABLE", 409;
    /// The body is longer than any request needs.
    BodyTooLarge = "BODY_TOO_LARGE", 413;
    /// The body says that it is something else than JSON, or than a tar archive where one is taken.
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", 415;
    /// The headers are longer than any request needs.
    HeadersTooLarge = "HEADERS_TOO_LARGE", 431;
    /// The backend failed.
    BackendError = "BACKEND_ERROR", 500;
    /// The server failed.
    InternalError = "INTERNAL_ERROR", 500;
    /// The connection cannot leave HTTP, as one of HTTP/1.0 cannot.
    HijackUnsupported = "HIJACK_UNSUPPORTED", 500;
    /// The shed runs, but its agent did not answer, or nothing in it listens on the port.
    ConnectFailed = "CONNECT_FAILED", 502;
    /// The image is not here, and could not be got from its registry.
    ImagePullFailed = "IMAGE_PULL_FAILED", 502;
    /// The shed does not run, and the request needs it to.
    ShedNotRunning = "SHED_NOT_RUNNING", 503;
    /// The shed has no tmux.
    TmuxNotAvailable = "TMUX_NOT_AVAILABLE", 503;
    /// The shed's image has no journal, or too many read it.
    LogsNotAvailable = "LOGS_NOT_AVAILABLE", 503;
    /// The server's configuration has turned the plugin bus off.
    PluginsDisabled = "PLUGINS_DISABLED", 503;
    /// The server is shutting down.
    ShuttingDown = "SHUTTING_DOWN", 503;
    /// The shed's disk is full.
    InsufficientStorage = "INSUFFICIENT_STORAGE", 507;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Body of every reply that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// The only key.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorDetail {
    /// One of the codes listed with each reply; a newer server may have others.
    pub code: String,
    /// For people: the object, what was tried, the cause, what to do.
    pub message: String,
}

impl ErrorDetail {
    /// Makes the detail of a known code.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_upper_snake_case_and_errors() {
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{code}");
            assert!((400..600).contains(&code.status()), "{code}");
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert_eq!(ErrorCode::from_wire(code.as_str()), Some(*code));
        }
    }
}
