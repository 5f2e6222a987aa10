//! The journal of a running shed, entry by entry, over its message channel.
//!
//! Each reader here is one in the guest. Entries are asked for as somebody takes them, so a slow reader holds nothing up,
//! and a guest that sends without end fills nothing. What it says is bounded and made fit to be shown.

use std::{collections::VecDeque, time::Duration};

use shed_protocol::{
    CloseLogs, LogEntries, LogEntry, LogsOpened, LogsRefusal, NextLogs, OpenLogs, SYSTEM_LOGS_CLOSE,
    SYSTEM_LOGS_NEXT, SYSTEM_LOGS_OPEN,
    logs::{MAX_ENTRIES, NEXT_PATIENCE_MS},
    timeouts::SYSTEM_REPLY,
};
use shed_types::{ShedName, UnitName, error_chain};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::{ShedStatus, Sheds, channel::ChannelError, clean, guest_channel::GuestChannel};

/// How long the guest may take to answer; it waits for entries itself, and may be busy.
const ANSWER: Duration = Duration::from_millis(NEXT_PATIENCE_MS).saturating_add(SYSTEM_REPLY);

/// Shortest time between two questions when there was nothing to tell: a guest that does not wait must not keep the
/// server busy.
const EMPTY_PAUSE: Duration = Duration::from_millis(500);

/// Which entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// Only those of this unit.
    pub unit: Option<UnitName>,
    /// How many of the past; absent means all of this boot.
    pub lines: Option<u32>,
    /// Whether to go on with what comes.
    pub follow: bool,
}

/// Why there are no entries, or no more.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("there is no shed named `{shed}`")]
    NotFound { shed: ShedName },
    #[error(
        "shed `{shed}` is not running (it is {}), so nobody can read its journal; its console is there with `shed logs \
         --console {shed}`",
        .status.as_str()
    )]
    NotRunning { shed: ShedName, status: ShedStatus },
    #[error("shed `{shed}` has no unit `{unit}`, and its journal has nothing of one")]
    NoUnit { shed: ShedName, unit: String },
    #[error(
        "shed `{shed}` has no journal, for its image has no journalctl; its console is there with `shed logs --console {shed}`"
    )]
    NoJournal { shed: ShedName },
    #[error("shed `{shed}` has as many readers of its journal as it can have; end one of them")]
    TooManyReaders { shed: ShedName },
    #[error("the journal of shed `{shed}` cannot be read: {reason}")]
    Failed { shed: ShedName, reason: String },
    #[error("the agent of shed `{shed}` cannot be reached: {reason}")]
    Away { shed: ShedName, reason: String },
}

impl Sheds {
    /// Opens a running shed's journal.
    ///
    /// # Errors
    /// When the shed does not run, its agent does not answer, or it has no such unit or no journal.
    pub async fn logs(&self, name: &ShedName, query: LogQuery) -> Result<LogStream, LogsError> {
        let handle = self.handle(name).ok_or_else(|| LogsError::NotFound { shed: name.clone() })?;
        let channel = handle.guest.borrow().clone();
        let Some(channel) = channel else {
            return Err(LogsError::NotRunning { shed: name.clone(), status: handle.view.borrow().status });
        };
        let reader = Uuid::now_v7();
        let LogQuery { unit, lines, follow } = query;
        let open = OpenLogs { reader, unit: unit.clone(), lines, follow };
        // From here on a reader may be there, whatever becomes of the answer: dropping the stream closes it.
        let stream = LogStream {
            shed: name.clone(),
            channel,
            reader,
            ready: VecDeque::new(),
            done: false,
            not_before: None,
        };
        let opened: LogsOpened = stream
            .channel
            .request(SYSTEM_LOGS_OPEN, &open, SYSTEM_REPLY)
            .await
            .map_err(|error| stream.failed(&error))?;
        let shed = name.clone();
        match opened.refusal {
            None => Ok(stream),
            Some(LogsRefusal::NoUnit) => {
                Err(LogsError::NoUnit { shed, unit: unit.map(|unit| unit.to_string()).unwrap_or_default() })
            }
            Some(LogsRefusal::NoJournal) => Err(LogsError::NoJournal { shed }),
            Some(LogsRefusal::TooManyReaders) => Err(LogsError::TooManyReaders { shed }),
        }
    }
}

/// Entries as they come. Dropping it closes the reader in the guest.
#[derive(Debug)]
pub struct LogStream {
    shed: ShedName,
    channel: GuestChannel,
    reader: Uuid,
    ready: VecDeque<LogEntry>,
    done: bool,
    /// When the guest is asked again that had nothing to tell.
    not_before: Option<Instant>,
}

impl LogStream {
    /// Waits for the next entry; nothing when there will be no more.
    ///
    /// # Errors
    /// When the guest cannot be reached any more or cannot read on.
    ///
    /// # Cancel safety
    /// None: entries on their way are lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<LogEntry>, LogsError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(clean::entry(entry)));
            }
            if self.done {
                return Ok(None);
            }
            if let Some(time) = self.not_before.take() {
                sleep_until(time).await;
            }
            let asked = Instant::now();
            let next = NextLogs { reader: self.reader };
            let answer: Result<LogEntries, _> = self.channel.request(SYSTEM_LOGS_NEXT, &next, ANSWER).await;
            let LogEntries { mut entries, done } = answer.map_err(|error| self.failed(&error))?;
            entries.truncate(MAX_ENTRIES);
            if entries.is_empty() {
                self.not_before = Some(asked + EMPTY_PAUSE);
            }
            self.done = done;
            self.ready = entries.into();
        }
    }

    fn failed(&self, error: &ChannelError) -> LogsError {
        let shed = self.shed.clone();
        match error {
            ChannelError::Refused { reason, .. } => LogsError::Failed { shed, reason: reason.clone() },
            ChannelError::Connect(_)
            | ChannelError::Closed
            | ChannelError::Silent { .. }
            | ChannelError::Frame(_)
            | ChannelError::NoReply { .. }
            | ChannelError::Reply { .. } => LogsError::Away { shed, reason: error_chain(error) },
        }
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        if self.done || !*self.channel.open().borrow() {
            return;
        }
        // Without a runtime the server has ended, and its channels with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (channel, close) = (self.channel.clone(), CloseLogs { reader: self.reader });
        drop(runtime.spawn(async move {
            // A guest that does not answer closes its readers with the channel.
            let _closed: Result<serde_json::Value, _> =
                channel.request(SYSTEM_LOGS_CLOSE, &close, SYSTEM_REPLY).await;
        }));
    }
}
