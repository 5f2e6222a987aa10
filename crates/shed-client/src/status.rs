//! The calls about how a shed is and what it writes.

use hyper::Method;
use shed_api::StatusReport;
use shed_types::{ShedName, UnitName};

use crate::{Client, ClientError, LogEvents, ShedEvents, client::EVENT_STREAM, connection::Call};

/// Which lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogsQuery {
    /// The console instead of the journal; there for stopped sheds as well.
    pub console: bool,
    /// Only lines of this unit, in a journal.
    pub unit: Option<UnitName>,
    /// How many of the past; absent means all, in a journal those of this boot.
    pub lines: Option<u32>,
    /// Whether to go on with what comes.
    pub follow: bool,
}

impl LogsQuery {
    fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("source", if self.console { "console" } else { "journal" });
        if let Some(unit) = &self.unit {
            query.append_pair("unit", unit.as_str());
        }
        if let Some(lines) = self.lines {
            query.append_pair("lines", &lines.to_string());
        }
        if self.follow {
            query.append_pair("follow", "true");
        }
        query.finish()
    }
}

impl Client {
    /// Returns how a shed is, and its guest while it runs.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, and see [`ClientError`].
    pub async fn status(&self, shed: &ShedName) -> Result<StatusReport, ClientError> {
        self.ask(Call::new(Method::GET, format!("/api/sheds/{shed}/status"))).await
    }

    /// Returns the news of a shed, event by event; the first one says how it is now.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, and see [`ClientError`].
    pub async fn events(&self, shed: &ShedName) -> Result<ShedEvents, ClientError> {
        self.stream(events_call(format!("/api/sheds/{shed}/events"))).await
    }

    /// Returns the lines of a shed's journal or console.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `SHED_NOT_RUNNING`, `UNIT_NOT_FOUND`, `LOGS_NOT_AVAILABLE`, `CONNECT_FAILED`, and see
    /// [`ClientError`].
    pub async fn logs(&self, shed: &ShedName, query: &LogsQuery) -> Result<LogEvents, ClientError> {
        self.stream(events_call(format!("/api/sheds/{shed}/logs?{}", query.to_query()))).await
    }
}

fn events_call(path: String) -> Call {
    Call { accept: EVENT_STREAM, ..Call::new(Method::GET, path) }
}
