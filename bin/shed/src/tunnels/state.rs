//! `~/.shed/tunnel-state.json`: which processes forward ports to which sheds (spec H.1).
//!
//! The file is only a note. A process counts when it has the pid and the start time of its entry and its command line
//! says that it is one of ours; whatever else has that pid is never signalled, and its entry is dropped. Each change is a
//! read, a change and a rename under a lock, so that many commands at once lose nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shed_process::{ProcessId, Signal, WatchedProcess};
use shed_types::ShedName;
use tokio::time::timeout;

use super::mapping::Mapping;
use crate::config::{ConfigError, ConfigStore, ServerName};

/// The file, beside the config file.
const FILE: &str = "tunnel-state.json";

/// Directory of the logs of processes without a terminal, beside it.
const LOGS: &str = "logs";

/// Longest file that is read, in bytes: some thousand entries.
const MAX: u64 = 1 << 20;

/// The word that the command lines of our processes have: `shed tunnels start NAME`, `shed tunnels daemon NAME`.
const COMMAND: &str = "tunnels";

/// How long a process may take to end by itself; it has nothing to save.
const GRACE: Duration = Duration::from_secs(5);

/// How long the system may take to end a process that has no choice.
const KILL: Duration = Duration::from_secs(10);

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a list of running tunnels")]
    Parse {
        path: Utf8PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} is longer than {MAX} bytes, which no list of running tunnels is")]
    TooLong { path: Utf8PathBuf },
    #[error("could not look up process {pid}")]
    LookUp {
        pid: u32,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Lock(#[from] ConfigError),
    #[error(transparent)]
    Write(#[from] shed_state::WriteFileError),
}

/// Why tunnels run on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndError {
    #[error("could not watch process {pid}, which has the tunnels to shed {shed}")]
    Watch {
        shed: ShedName,
        pid: u32,
        #[source]
        source: io::Error,
    },
    #[error("could not end process {pid}, which has the tunnels to shed {shed}")]
    Signal {
        shed: ShedName,
        pid: u32,
        #[source]
        source: io::Error,
    },
    #[error("process {pid}, which has the tunnels to shed {shed}, does not end although it was killed")]
    Immortal { shed: ShedName, pid: u32 },
    #[error(transparent)]
    State(#[from] StateError),
}

/// A process and what it forwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The shed.
    pub(crate) shed_name: ShedName,
    /// Which profiles the ports are from: `default`, `web+explicit`.
    pub(crate) profile: String,
    /// The process.
    pub(crate) pid: u32,
    /// When it started, in the unit of the system's process table. An entry without it cannot be told from one of a
    /// process that had the pid before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process_start_time: Option<u64>,
    /// What is forwarded.
    pub(crate) ports: Vec<Mapping>,
    /// Since when.
    pub(crate) started_at: Timestamp,
    /// The server the shed is on.
    pub(crate) server_name: ServerName,
}

/// The whole file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct StateFile {
    #[serde(default)]
    tunnels: BTreeMap<ShedName, Entry>,
}

/// How it went to take a shed's place in the file.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The place is this process's until it gives it back.
    Taken,
    /// Another process forwards ports to the shed.
    Held(Box<Entry>),
}

impl Entry {
    /// Makes the entry of this very process.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub(crate) fn of_this_process(
        shed: &ShedName,
        server: &ServerName,
        profile: String,
        ports: Vec<Mapping>,
    ) -> Result<Self, StateError> {
        let pid = std::process::id();
        let id = ProcessId::of(pid).map_err(|source| StateError::LookUp { pid, source })?;
        Ok(Self {
            shed_name: shed.clone(),
            profile,
            pid,
            process_start_time: id.map(|id| id.start_time),
            ports,
            started_at: Timestamp::now(),
            server_name: server.clone(),
        })
    }

    fn id(&self) -> Option<ProcessId> {
        self.process_start_time.map(|start_time| ProcessId { pid: self.pid, start_time })
    }

    /// Returns whether its process lives, and is ours.
    fn is_alive(&self) -> Result<bool, StateError> {
        let look_up = |source| StateError::LookUp { pid: self.pid, source };
        let Some(id) = self.id() else { return Ok(false) };
        if ProcessId::of(self.pid).map_err(look_up)? != Some(id) {
            return Ok(false);
        }
        self.is_ours().map_err(look_up)
    }

    /// Returns whether the process that has the pid now is one that forwards ports to this shed.
    fn is_ours(&self) -> io::Result<bool> {
        let words = shed_process::command_line(self.pid)?.unwrap_or_default();
        let has = |text: &str| words.iter().skip(1).any(|word| word == text.as_bytes());
        Ok(has(COMMAND) && has(self.shed_name.as_str()))
    }
}

/// The place of the file.
#[derive(Debug, Clone)]
pub(crate) struct TunnelState {
    store: ConfigStore,
    path: Utf8PathBuf,
}

impl TunnelState {
    /// Uses the file beside the config file.
    pub(crate) fn beside(store: &ConfigStore) -> Self {
        Self { path: store.beside(FILE), store: store.clone() }
    }

    /// Returns where the log of a shed's tunnels is.
    pub(crate) fn log_of(&self, shed: &ShedName) -> Utf8PathBuf {
        self.store.beside(LOGS).join(format!("tunnels-{shed}.log"))
    }

    /// Returns the tunnels whose process lives, by shed, and drops the others from the file.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is none.
    pub(crate) fn running(&self) -> Result<Vec<Entry>, StateError> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        self.update(|state| Ok(state.tunnels.values().cloned().collect()))
    }

    /// Returns the tunnels to a shed, if their process lives.
    ///
    /// # Errors
    /// Those of [`Self::running`].
    pub(crate) fn running_to(&self, shed: &ShedName) -> Result<Option<Entry>, StateError> {
        Ok(self.running()?.into_iter().find(|entry| entry.shed_name == *shed))
    }

    /// Takes the place of a shed for this process, unless a living process has it.
    ///
    /// # Errors
    /// Those of [`Self::running`].
    pub(crate) fn claim(&self, entry: Entry) -> Result<Claim, StateError> {
        self.update(|state| match state.tunnels.get(&entry.shed_name) {
            Some(other) if other.id() != entry.id() => Ok(Claim::Held(Box::new(other.clone()))),
            Some(_) | None => {
                state.tunnels.insert(entry.shed_name.clone(), entry);
                Ok(Claim::Taken)
            }
        })
    }

    /// Drops an entry, if it is still this one.
    ///
    /// # Errors
    /// Those of [`Self::running`].
    pub(crate) fn release(&self, entry: &Entry) -> Result<(), StateError> {
        self.update(|state| {
            if state.tunnels.get(&entry.shed_name).is_some_and(|there| there.id() == entry.id()) {
                state.tunnels.remove(&entry.shed_name);
            }
            Ok(())
        })
    }

    /// Ends the process of an entry, waits until it is gone, and drops the entry. A process that is not ours is left
    /// alone, and so is one that was started since.
    ///
    /// # Errors
    /// When the process cannot be ended.
    pub(crate) async fn end(&self, entry: &Entry) -> Result<(), EndError> {
        let (shed, pid) = (&entry.shed_name, entry.pid);
        let watch = |source| EndError::Watch { shed: shed.clone(), pid, source };
        let signal = |source| EndError::Signal { shed: shed.clone(), pid, source };
        let process = match entry.id() {
            Some(id) => WatchedProcess::open(id).map_err(watch)?,
            None => None,
        };
        // Only now: the handle sees to it that the pid means this process and no later one.
        if let Some(process) = process
            && entry.is_ours().map_err(watch)?
        {
            process.signal(Signal::TERM).map_err(signal)?;
            let ended = timeout(GRACE, process.dead()).await;
            if ended.is_err() {
                process.signal(Signal::KILL).map_err(signal)?;
                let killed = timeout(KILL, process.dead()).await;
                killed.map_err(|_| EndError::Immortal { shed: shed.clone(), pid })?.map_err(watch)?;
            } else if let Ok(Err(error)) = ended {
                return Err(watch(error));
            }
        }
        Ok(self.release(entry)?)
    }

    /// Ends the tunnels to a shed of this server, if there are any, and returns whether there were.
    ///
    /// # Errors
    /// When the state cannot be read, or the process not ended.
    pub(crate) async fn end_those_to(&self, shed: &ShedName, server: &ServerName) -> Result<bool, EndError> {
        match self.running_to(shed)?.filter(|entry| entry.server_name == *server) {
            Some(entry) => self.end(&entry).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Reads the file without the entries of processes that are gone, lets `change` change it, and writes it when it is
    /// another one then.
    fn update<T>(
        &self,
        change: impl FnOnce(&mut StateFile) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let _lock: File = self.store.lock_beside(FILE)?;
        let before = self.read()?;
        let mut state = StateFile::default();
        for (shed, entry) in &before.tunnels {
            if entry.shed_name == *shed && entry.is_alive()? {
                state.tunnels.insert(shed.clone(), entry.clone());
            }
        }
        let value = change(&mut state)?;
        if state != before {
            let mut text = serde_json::to_string_pretty(&state).expect("the state is plain JSON");
            text.push('\n');
            shed_state::atomic::write_for_owner(&real(&self.path), text.as_bytes(), 0o600)?;
        }
        Ok(value)
    }

    fn read(&self) -> Result<StateFile, StateError> {
        let read = |source| StateError::Read { path: self.path.clone(), source };
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StateFile::default()),
            Err(error) => return Err(read(error)),
            Ok(metadata) if metadata.len() > MAX => {
                return Err(StateError::TooLong { path: self.path.clone() });
            }
            Ok(_) => {}
        }
        let text = fs::read(&self.path).map_err(read)?;
        if text.is_empty() {
            return Ok(StateFile::default());
        }
        serde_json::from_slice(&text).map_err(|source| StateError::Parse { path: self.path.clone(), source })
    }
}

/// A rename would put a plain file where the user has a link.
fn real(path: &Utf8Path) -> Utf8PathBuf {
    path.canonicalize_utf8().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
