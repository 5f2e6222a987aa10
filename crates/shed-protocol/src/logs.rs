//! Log entries of a guest, over the message channel (seed roadmap, log streaming).
//!
//! The host opens a reader, asks for entries as often as it can use more, and closes it. Since each answer is asked for, a
//! slow reader holds up nothing else on the channel. Readers end with the channel.

use serde::{Deserialize, Serialize};
use shed_types::UnitName;
use uuid::Uuid;

/// Most readers of one channel at a time.
pub const MAX_READERS: usize = 16;

/// Most entries of one answer.
pub const MAX_ENTRIES: usize = 256;

/// Longest message of an entry in bytes; of a longer one the beginning is sent.
pub const MAX_MESSAGE: usize = 8 << 10;

/// How long an answer is waited for when there is nothing to tell, in milliseconds; then it is empty.
pub const NEXT_PATIENCE_MS: u64 = 20_000;

/// Opens a reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLogs {
    /// Made by the host; names the reader from now on.
    pub reader: Uuid,
    /// Only entries of this unit of systemd; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitName>,
    /// How many entries of the past come first; absent means all of this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Whether the reader goes on with what comes.
    #[serde(default)]
    pub follow: bool,
}

/// Answers [`OpenLogs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogsOpened {
    /// Why there is no reader, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<LogsRefusal>,
}

/// Why a guest opens no reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogsRefusal {
    /// Its image has no journal.
    NoJournal,
    /// It has no such unit, and its journal nothing of one.
    NoUnit,
    /// [`MAX_READERS`] are open.
    TooManyReaders,
}

/// Asks for more entries; of one reader, one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextLogs {
    /// The reader.
    pub reader: Uuid,
}

/// Answers [`NextLogs`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogEntries {
    /// At most [`MAX_ENTRIES`], and no more than fit a frame; empty when nothing came for a while.
    pub entries: Vec<LogEntry>,
    /// There will be no more, and the reader is closed.
    #[serde(default)]
    pub done: bool,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Microseconds since 1970 by the guest's clock (journald's `__REALTIME_TIMESTAMP`).
    pub at_us: u64,
    /// The unit of systemd that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What the program calls itself (`SYSLOG_IDENTIFIER`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// 0 (emergency) to 7 (debug), as syslog(3) counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The text, at most [`MAX_MESSAGE`] bytes.
    pub message: String,
}

/// Closes a reader; no answer to its last [`NextLogs`] may follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseLogs {
    /// The reader.
    pub reader: Uuid,
}
