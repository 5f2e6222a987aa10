//! Lines of a shed's journal, which its agent reads, or of its console, which is a file of this host.
//!
//! The reply is a stream of server-sent events whether it follows or not: so it has keep-alives while nothing is
//! written, and can say at its end whether that was all, which lines of JSON cannot.

use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::Response,
};
use shed_api::{ErrorCode, LogEvent, LogLine, MAX_LOG_LINES};
use shed_lifecycle::{ConsoleError, ConsoleLines, LogQuery, LogStream, LogsError};
use shed_types::UnitName;

use super::{
    ApiError, App,
    event_stream::{StreamEvent, Teller, Told, take_place, tell},
    extract::{NamedShed, ShedNameParam},
    openapi::error_responses,
    query::{Query, invalid},
    status_wire,
};

error_responses! {
    /// Failures of a look into logs.
    LogsErrors: InvalidShedName, ShedNotFound, UnitNotFound, InternalError, ConnectFailed, ShedNotRunning, LogsNotAvailable
}

/// Which lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// `journal`, which only a running shed has, or `console`. Absent means the journal.
    #[param(required = false, value_type = String, pattern = "^(journal|console)$")]
    source: Source,
    /// Only lines of this unit of systemd; not with the console.
    #[param(required = false, value_type = String, max_length = 255, pattern = r"^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*$")]
    unit: Option<UnitName>,
    /// How many lines of the past; absent means all, in the journal those of this boot.
    #[param(required = false, maximum = 1_000_000)]
    lines: Option<u32>,
    /// Whether to go on with what comes.
    #[param(required = false)]
    follow: bool,
}

/// Where lines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Journal,
    Console,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, ApiError> {
        let source = match query.one("source")? {
            None | Some("journal") => Source::Journal,
            Some("console") => Source::Console,
            Some(other) => return Err(invalid("source", other, "it must be journal or console")),
        };
        let unit = match query.one("unit")? {
            Some(text) if source == Source::Console => {
                return Err(invalid(
                    "unit",
                    text,
                    "a console has no units; leave it out, or ask for source=journal",
                ));
            }
            Some(text) => {
                Some(text.parse().map_err(|error| ApiError::from_chain(ErrorCode::InvalidRequest, &error))?)
            }
            None => None,
        };
        let number = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            let lines = plain.then(|| text.parse().ok()).flatten().filter(|lines| *lines <= MAX_LOG_LINES);
            lines.ok_or_else(|| {
                invalid("lines", text, &format!("it must be a number from 0 to {MAX_LOG_LINES}"))
            })
        };
        let lines = query.one("lines")?.map(number).transpose()?;
        Ok(Self { source, unit, lines, follow: query.flag("follow")? })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Self::of(&Query::of(parts)?)
    }
}

/// Get what a shed has written
///
/// Server-sent events: `line` (a `LogLine`) for each line, the oldest first; then `end`, or `error` (an `ErrorDetail`) when
/// not all could be told. With `follow` only `error` ends them.
#[utoipa::path(
    get,
    path = "/api/sheds/{name}/logs",
    operation_id = "shed_logs",
    tag = "sheds",
    params(ShedNameParam, Wanted),
    responses((status = 200, description = "The lines.", content((StreamEvent = "text/event-stream"))), LogsErrors)
)]
pub(super) async fn logs(
    State(app): State<App>,
    NamedShed(name): NamedShed,
    wanted: Wanted,
) -> Result<Response, ApiError> {
    let Wanted { source, unit, lines, follow } = wanted;
    let place = take_place(&app)?;
    Ok(match source {
        Source::Journal => {
            let journal = app.sheds.logs(&name, LogQuery { unit, lines, follow }).await?;
            tell(&app, place, Journal(journal))
        }
        Source::Console => {
            let console = app.sheds.console(&name, lines, follow).await?;
            tell(&app, place, Console(console))
        }
    })
}

struct Journal(LogStream);

impl Teller for Journal {
    async fn next(&mut self) -> Told {
        told(self.0.next().await.map(|entry| entry.map(status_wire::line)).map_err(Into::into))
    }
}

struct Console(ConsoleLines);

impl Teller for Console {
    async fn next(&mut self) -> Told {
        let line = |message| LogLine { message, ..LogLine::default() };
        told(self.0.next().await.map(|text| text.map(line)).map_err(Into::into))
    }
}

fn told(line: Result<Option<LogLine>, ApiError>) -> Told {
    match line {
        Ok(Some(line)) => {
            let event = LogEvent::Line(Box::new(line));
            Told::Event(event.name(), event.data())
        }
        Ok(None) => Told::Last(LogEvent::End.name(), LogEvent::End.data()),
        Err(error) => Told::failed(error),
    }
}

impl From<LogsError> for ApiError {
    fn from(error: LogsError) -> Self {
        let code = match &error {
            LogsError::NotFound { .. } => ErrorCode::ShedNotFound,
            LogsError::NotRunning { .. } => ErrorCode::ShedNotRunning,
            LogsError::NoUnit { .. } => ErrorCode::UnitNotFound,
            LogsError::NoJournal { .. } | LogsError::TooManyReaders { .. } => ErrorCode::LogsNotAvailable,
            LogsError::Failed { .. } | LogsError::Away { .. } => ErrorCode::ConnectFailed,
        };
        Self::from_chain(code, &error)
    }
}

impl From<ConsoleError> for ApiError {
    fn from(error: ConsoleError) -> Self {
        let code = match &error {
            ConsoleError::NotFound { .. } => ErrorCode::ShedNotFound,
            ConsoleError::Read { .. } | ConsoleError::Watch { .. } => ErrorCode::InternalError,
        };
        Self::from_chain(code, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: &str) -> Result<Wanted, ApiError> {
        Wanted::of(&Query::parse(query).unwrap())
    }

    #[test]
    fn what_is_there_is_meant_and_what_is_wrong_is_refused() {
        let plain = Wanted { source: Source::Journal, unit: None, lines: None, follow: false };
        assert_eq!(wanted(""), Ok(plain.clone()));
        let unit = Some("ssh.service".parse().unwrap());
        let all = Wanted { unit, lines: Some(0), follow: true, ..plain };
        assert_eq!(wanted("source=journal&unit=ssh.service&lines=0&follow=true&other"), Ok(all));
        for query in [
            "source=",
            "source=file",
            "unit=",
            "unit=-u",
            "unit=a*",
            "unit=a&unit=b",
            "lines=",
            "lines=-1",
            "lines=+1",
            "lines=1000001",
            "lines=99999999999999999999",
            "lines=all",
            "follow=",
            "follow=1",
            "source=console&unit=a",
        ] {
            let error = wanted(query).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest, "{query}");
        }
    }

    #[test]
    fn fuzz_logs_query() {
        let strategy = "((source|unit|lines|follow)(=(journal|console|true|[0-9]{0,8}|[a-z@*.-]{0,9}|%[0-9]{2}))?&?){0,6}";
        shed_testkit::fuzz("logs query", &strategy, |text: String| {
            if let Ok(wanted) = wanted(&text) {
                assert!(wanted.unit.is_none() || wanted.source == Source::Journal);
                assert!(wanted.lines.is_none_or(|lines| lines <= MAX_LOG_LINES));
            }
        });
    }
}
