//! Log entries for the host: readers that it opens, asks and closes (shed-protocol, logs). They end with their channel.
//!
//! Each reader is one journalctl, which waits on its pipe while nobody asks: a slow host costs no memory here.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use shed_protocol::{
    CloseLogs, LogEntries, LogEntry, LogsRefusal, MAX_PAYLOAD, NextLogs, OpenLogs,
    logs::{MAX_ENTRIES, MAX_MESSAGE, MAX_READERS, NEXT_PATIENCE_MS},
};
use shed_types::UnitName;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{entries::Entries, export::Entry, find, journal_arguments, spawn};

/// Most bytes of one answer's entries as JSON: with room for the envelope they fit a frame.
const ANSWER: usize = MAX_PAYLOAD - (64 << 10);

/// Longest wait for systemd's word on a unit. One that does not answer is asked nothing more.
const UNIT_PATIENCE: Duration = Duration::from_secs(5);

/// Longest names that are sent, in characters.
const NAME: usize = 256;

/// Why there are no entries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    #[error("no reader is opened: {0:?}")]
    Refused(LogsRefusal),
    #[error("a reader with this id is open already")]
    Open,
    #[error("there is no such reader")]
    NotOpen,
    #[error("the reader is asked already")]
    Asked,
    #[error("cannot run journalctl")]
    Run(#[source] io::Error),
    #[error("journalctl says: {0}")]
    Failed(String),
}

/// The readers of one channel.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<HashMap<Uuid, Handle>>);

#[derive(Debug, Clone)]
struct Handle {
    reader: Arc<tokio::sync::Mutex<Reader>>,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Reader {
    entries: Entries,
    /// What did not fit the answer before.
    held: Option<LogEntry>,
    /// Whether anything was read yet.
    has_spoken: bool,
}

impl Readers {
    /// Opens a reader.
    pub(crate) async fn open(&self, asked: OpenLogs) -> Result<(), LogsError> {
        self.check_room(asked.reader)?;
        let journalctl = find("journalctl").ok_or(LogsError::Refused(LogsRefusal::NoJournal))?;
        if let Some(unit) = &asked.unit
            && !exists(unit).await
        {
            return Err(LogsError::Refused(LogsRefusal::NoUnit));
        }
        let child = spawn(&journalctl, &arguments(&asked)).map_err(LogsError::Run)?;
        let entries = Entries::of(child).map_err(LogsError::Run)?;
        let reader = Reader { entries, held: None, has_spoken: false };
        let reader = Arc::new(tokio::sync::Mutex::new(reader));
        // Others may have come while systemd was asked.
        self.check_room(asked.reader)?;
        let _none = self.lock().insert(asked.reader, Handle { reader, closed: CancellationToken::new() });
        Ok(())
    }

    /// Waits for entries.
    pub(crate) async fn next(&self, asked: &NextLogs) -> Result<LogEntries, LogsError> {
        let handle = self.lock().get(&asked.reader).cloned().ok_or(LogsError::NotOpen)?;
        let mut reader = handle.reader.try_lock().map_err(|_| LogsError::Asked)?;
        let answer = tokio::select! {
            () = handle.closed.cancelled() => return Err(LogsError::NotOpen),
            answer = reader.answer() => answer,
        };
        if !matches!(answer, Ok(LogEntries { done: false, .. })) {
            let _ended = self.lock().remove(&asked.reader);
        }
        answer
    }

    /// Closes a reader; one that is not there is closed.
    pub(crate) fn close(&self, asked: &CloseLogs) {
        if let Some(handle) = self.lock().remove(&asked.reader) {
            handle.closed.cancel();
        }
    }

    fn check_room(&self, reader: Uuid) -> Result<(), LogsError> {
        let readers = self.lock();
        match (readers.contains_key(&reader), readers.len() < MAX_READERS) {
            (true, _) => Err(LogsError::Open),
            (false, true) => Ok(()),
            (false, false) => Err(LogsError::Refused(LogsRefusal::TooManyReaders)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Handle>> {
        // The table is whole at every point where a holder could die.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// Waits for an entry, and adds to it what is there already.
    async fn answer(&mut self) -> Result<LogEntries, LogsError> {
        let mut answer = LogEntries::default();
        let mut bytes = 0;
        loop {
            let next = match (self.held.take(), answer.entries.is_empty()) {
                (Some(held), _) => Ok(Some(held)),
                (None, true) => {
                    let patience = Duration::from_millis(NEXT_PATIENCE_MS);
                    match timeout(patience, self.read()).await {
                        Ok(next) => next,
                        Err(_) => return Ok(answer),
                    }
                }
                (None, false) => match self.read().now_or_never() {
                    Some(next) => next,
                    None => return Ok(answer),
                },
            };
            let Some(entry) = next.map_err(LogsError::Run)? else {
                answer.done = true;
                return match self.entries.complaint().await.map_err(LogsError::Run)? {
                    Some(complaint) if !self.has_spoken => Err(LogsError::Failed(complaint)),
                    Some(_) | None => Ok(answer),
                };
            };
            self.has_spoken = true;
            bytes += serde_json::to_vec(&entry).map_or(0, |json| json.len() + 1);
            if bytes > ANSWER {
                self.held = Some(entry);
                return Ok(answer);
            }
            answer.entries.push(entry);
            if answer.entries.len() == MAX_ENTRIES {
                return Ok(answer);
            }
        }
    }

    /// Reads an entry; one that does not even say when it was made is none.
    async fn read(&mut self) -> io::Result<Option<LogEntry>> {
        while let Some(entry) = self.entries.next().await? {
            if let Some(entry) = log_entry(&entry) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

fn arguments(asked: &OpenLogs) -> Vec<String> {
    let mut arguments = journal_arguments();
    match asked.lines {
        Some(lines) => arguments.push(format!("--lines={lines}")),
        None => arguments.extend(["--boot", "--no-tail"].map(str::to_owned)),
    }
    if asked.follow {
        arguments.push("--follow".to_owned());
    }
    if let Some(unit) = &asked.unit {
        arguments.push(format!("--unit={unit}"));
    }
    arguments
}

/// Asks systemd for a unit, and the journal when it is not there any more. In doubt it exists: then it has no entries.
async fn exists(unit: &UnitName) -> bool {
    let property = ["show", "--property=LoadState", "--value", "--", unit.as_str()].map(str::to_owned);
    let state = match find("systemctl") {
        Some(systemctl) => first_output(&systemctl, &property).await,
        None => return true,
    };
    if state.as_deref().map(str::trim) != Some("not-found") {
        return true;
    }
    let journal = ["--quiet", "--no-pager", "--output=cat", "--output-fields=PRIORITY", "--lines=1"];
    let mut journal = journal.map(str::to_owned).to_vec();
    journal.push(format!("--unit={unit}"));
    match find("journalctl") {
        Some(journalctl) => first_output(&journalctl, &journal).await.is_none_or(|text| !text.is_empty()),
        None => true,
    }
}

/// Runs a program that prints little, and returns that.
async fn first_output(program: &std::path::Path, arguments: &[String]) -> Option<String> {
    use tokio::io::AsyncReadExt;
    let mut child = spawn(program, arguments).ok()?;
    let output = child.stdout.take()?;
    drop(child.stderr.take());
    let mut text = Vec::new();
    let read = timeout(UNIT_PATIENCE, output.take(1000).read_to_end(&mut text)).await;
    read.ok()?.ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Turns an entry into what is sent. What systemd itself says of a unit belongs to that unit.
fn log_entry(entry: &Entry) -> Option<LogEntry> {
    let name = |field: &str| {
        entry.text(field).filter(|name| !name.is_empty()).map(|name| name.chars().take(NAME).collect())
    };
    let own = name("_SYSTEMD_UNIT");
    let unit = match &own {
        Some(unit) if unit != "init.scope" => own,
        Some(_) | None => name("UNIT").or(own),
    };
    Some(LogEntry {
        at_us: entry.number("__REALTIME_TIMESTAMP")?,
        unit,
        identifier: name("SYSLOG_IDENTIFIER").or_else(|| name("_COMM")),
        pid: entry.number("_PID"),
        priority: entry.number("PRIORITY").filter(|priority| *priority <= 7),
        message: cut(entry.text("MESSAGE").unwrap_or_default()),
    })
}

/// Replacing what was no text has made it longer.
fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    message
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{super::export::Decoder, *};

    fn parse(text: &[u8]) -> Option<LogEntry> {
        let mut entries = VecDeque::new();
        Decoder::default().feed(text, &mut entries);
        log_entry(&entries.pop_front()?)
    }

    #[test]
    fn an_entry_says_what_the_journal_says_and_is_cut() {
        let text = b"__REALTIME_TIMESTAMP=5\n_SYSTEMD_UNIT=ssh.service\nUNIT=fake.service\nSYSLOG_IDENTIFIER=sshd\n_PID=7\n\
            PRIORITY=9\nMESSAGE=hello\n\n";
        let expected = LogEntry {
            at_us: 5,
            unit: Some("ssh.service".into()),
            identifier: Some("sshd".into()),
            pid: Some(7),
            priority: None,
            message: "hello".into(),
        };
        assert_eq!(parse(text), Some(expected));
        let manager = b"__REALTIME_TIMESTAMP=5\n_SYSTEMD_UNIT=init.scope\nUNIT=a.service\n_COMM=systemd\n\n";
        let entry = parse(manager).unwrap();
        assert_eq!(
            (entry.unit.as_deref(), entry.identifier.as_deref()),
            (Some("a.service"), Some("systemd"))
        );
        assert_eq!(parse(b"MESSAGE=when?\n\n"), None);
        let message = [b"__REALTIME_TIMESTAMP=5\nMESSAGE=".as_slice(), &[0xff; 10_000], b"\n\n"].concat();
        let cut = parse(&message).unwrap().message;
        assert!(cut.len() <= MAX_MESSAGE && cut.chars().all(|c| c == '\u{fffd}'));
    }

    /// A reader on a program that prints, in the place of a journalctl.
    fn reader(script: &str) -> Reader {
        let child = spawn("/bin/sh".as_ref(), &["-c".to_owned(), script.to_owned()]).unwrap();
        Reader { entries: Entries::of(child).unwrap(), held: None, has_spoken: false }
    }

    #[tokio::test]
    async fn answers_are_bounded_and_nothing_is_lost_between_them() {
        // Each is as long as it may be, and six times that as JSON.
        let script = "m=$(head -c 9000 /dev/zero | tr '\\0' '\\1'); i=0; while [ $i -lt 60 ]; do \
            printf '__REALTIME_TIMESTAMP=%s\\nMESSAGE=%s\\n\\n' $i \"$m\"; i=$((i+1)); done";
        let mut reader = reader(script);
        let mut seen = Vec::new();
        let mut answers = 0;
        loop {
            let answer = reader.answer().await.unwrap();
            assert!(serde_json::to_vec(&answer).unwrap().len() < MAX_PAYLOAD);
            seen.extend(answer.entries.iter().map(|entry| entry.at_us));
            answers += 1;
            if answer.done {
                break;
            }
        }
        assert_eq!(seen, (0..60).collect::<Vec<_>>());
        assert!(answers >= 3);
    }

    #[tokio::test]
    async fn a_journalctl_that_fails_is_told_with_its_words() {
        let error = reader("echo 'No journal files were found.' >&2").answer().await.unwrap_err();
        assert_eq!(error.to_string(), "journalctl says: No journal files were found.");
        let error = reader("exit 3").answer().await.unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn a_reader_that_waits_ends_when_it_is_closed_and_its_process_with_it() {
        let readers = Arc::new(Readers::default());
        let id = Uuid::now_v7();
        let reader = reader("exec sleep 1000");
        let pid = reader.entries.pid().unwrap();
        let handle =
            Handle { reader: Arc::new(tokio::sync::Mutex::new(reader)), closed: CancellationToken::new() };
        readers.lock().insert(id, handle);
        let waiting = tokio::spawn({
            let readers = Arc::clone(&readers);
            async move { readers.next(&NextLogs { reader: id }).await }
        });
        tokio::task::yield_now().await;
        assert!(matches!(readers.next(&NextLogs { reader: id }).await, Err(LogsError::Asked)));
        readers.close(&CloseLogs { reader: id });
        assert!(matches!(waiting.await.unwrap(), Err(LogsError::NotOpen)));
        let gone = async {
            while std::path::Path::new(&format!("/proc/{pid}/stat")).exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.expect("the process is killed and reaped");
    }
}
