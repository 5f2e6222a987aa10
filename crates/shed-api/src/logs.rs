//! Lines of a shed's journal or console, on the wire: `GET /api/sheds/{name}/logs`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ErrorDetail;

/// Most lines of the past that can be asked for; without a number all of them come.
pub const MAX_LOG_LINES: u32 = 1_000_000;

/// One line. Those of a console have a message only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// When it was written, by the guest's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The unit of systemd that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What the program calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// 0 (emergency) to 7 (debug).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The text, without control characters but line feeds and tabs; at most 8 KiB, the beginning of a longer one.
    pub message: String,
}

/// An event of `GET /api/sheds/{name}/logs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// A line.
    Line(Box<LogLine>),
    /// The last event: there are no more lines.
    End,
    /// The last event: why there are no more lines, or not all.
    Error(ErrorDetail),
}

impl LogEvent {
    /// Returns the event's name on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Line(_) => "line",
            Self::End => "end",
            Self::Error(_) => "error",
        }
    }

    /// Returns the event's data on the wire: JSON on one line.
    ///
    /// # Panics
    /// Never: these types are plain JSON.
    #[must_use]
    pub fn data(&self) -> String {
        match self {
            Self::Line(line) => serde_json::to_string(line),
            Self::End => Ok("{}".to_owned()),
            Self::Error(detail) => serde_json::to_string(detail),
        }
        .expect("wire types serialise without error")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_example_reads_and_writes_back() {
        crate::golden::check::<Vec<LogLine>>(include_str!("../fixtures/logs.json"));
    }
}
