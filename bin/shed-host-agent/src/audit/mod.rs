//! The audit log: which shed got what, one JSON object a line (spec J.4). The bus side writes a line before an answer leaves.
//!
//! It never holds a secret, and texts of guests only cleaned and cut. The file is the user's alone. Each line is written
//! with the file opened anew, so a file that was moved away or deleted begins again. A line that cannot be written is an
//! error, and the answer is not given then.

mod file;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::Serialize;
use shed_extensions::{Code, Failure, clean, operation};

use crate::answer::{APPROVAL_DENIED, Asked, Told};

/// Longest detail in characters; an error text of AWS may be long.
const DETAIL: usize = 500;

/// Longest name of a shed or server; the rules of names are the server's, which is not trusted to keep them.
const NAME: usize = 128;

/// How often at most refusals of one shed are written.
const REFUSALS: Duration = Duration::from_secs(1);

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    ts: Timestamp,
    server: String,
    shed: String,
    ns: &'static str,
    op: String,
    result: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    approval: &'static str,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Denied,
    Error,
}

/// Why a line is not in the log.
#[derive(Debug, thiserror::Error)]
#[error("could not write the audit log {path}")]
pub struct AuditError {
    path: Utf8PathBuf,
    #[source]
    source: io::Error,
}

/// The log; one that writes nothing when it is turned off.
#[derive(Debug, Clone)]
pub struct Audit(Option<Arc<Kept>>);

#[derive(Debug)]
struct Kept {
    path: Utf8PathBuf,
    /// Held while a line is written, so that lines and rotations do not mix.
    writing: Mutex<()>,
    /// Refusals that were not written yet, a shed.
    refused: Mutex<HashMap<(String, String), Refused>>,
}

#[derive(Debug)]
struct Refused {
    written: Instant,
    since: u64,
}

impl Audit {
    /// Makes the log, and its directory; tries it, so that an agent that could answer nothing does not start.
    ///
    /// # Errors
    /// When the file cannot be made, or is not this user's.
    pub fn open(path: Option<&Utf8Path>) -> Result<Self, AuditError> {
        let Some(path) = path else { return Ok(Self(None)) };
        file::append(path, b"").map_err(|source| AuditError { path: path.to_owned(), source })?;
        let kept = Kept { path: path.to_owned(), writing: Mutex::default(), refused: Mutex::default() };
        Ok(Self(Some(Arc::new(kept))))
    }

    /// Returns the file.
    #[must_use]
    pub fn path(&self) -> Option<&Utf8Path> {
        self.0.as_ref().map(|kept| kept.path.as_path())
    }

    /// Writes what became of a request.
    ///
    /// # Errors
    /// When it cannot be written; then the request must not be answered.
    pub async fn write(
        &self,
        asked: &Asked,
        namespace: &'static str,
        told: &Told,
        result: Result<(), &Failure>,
    ) -> Result<(), AuditError> {
        let Some(kept) = &self.0 else { return Ok(()) };
        kept.append(line(asked, namespace, told, result)).await
    }

    /// Writes that a shed asks too much: at most once a second, with how often it was refused. A shed that floods would
    /// else rotate away what happened before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write_refusal(
        &self,
        asked: &Asked,
        namespace: &'static str,
        failure: &Failure,
    ) -> Result<(), AuditError> {
        let Some(kept) = &self.0 else { return Ok(()) };
        let Some(times) = kept.count_refusal(asked, Instant::now()) else { return Ok(()) };
        let told = Told { operation: operation(&asked.payload), ..Told::default() };
        let failure = Failure::new(failure.code, format!("{} (refused: {times})", failure.error));
        kept.append(line(asked, namespace, &told, Err(&failure))).await
    }
}

impl Kept {
    async fn append(self: &Arc<Self>, line: Line) -> Result<(), AuditError> {
        let kept = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            let _writing = kept.writing.lock().unwrap_or_else(PoisonError::into_inner);
            file::append(&kept.path, &text)
        });
        let failed = |source| AuditError { path: self.path.clone(), source };
        written.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
    }

    /// Counts a refusal, and returns how many there are to be written when it is time.
    fn count_refusal(&self, asked: &Asked, now: Instant) -> Option<u64> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (asked.server.clone(), asked.shed.name.clone());
        refused.retain(|other, entry| *other == key || entry.since > 0 || now - entry.written < REFUSALS);
        let Some(entry) = refused.get_mut(&key) else {
            let _new = refused.insert(key, Refused { written: now, since: 0 });
            return Some(1);
        };
        entry.since += 1;
        (now - entry.written >= REFUSALS).then(|| {
            entry.written = now;
            std::mem::take(&mut entry.since)
        })
    }
}

fn line(asked: &Asked, namespace: &'static str, told: &Told, result: Result<(), &Failure>) -> Line {
    let (outcome, detail) = match result {
        Ok(()) => (Outcome::Ok, told.detail.clone()),
        Err(failure) => {
            let is_denied = failure.error == APPROVAL_DENIED || failure.code == Code::RegistryNotAllowed;
            let detail = match &told.detail {
                // What a guest may read is often the beginning of what the user may.
                Some(detail) if detail.contains(&failure.error) => detail.clone(),
                Some(detail) => format!("{detail}: {}", failure.error),
                None => failure.error.clone(),
            };
            (if is_denied { Outcome::Denied } else { Outcome::Error }, Some(detail))
        }
    };
    Line {
        ts: Timestamp::now(),
        server: clean(&asked.server, NAME),
        shed: clean(&asked.shed.name, NAME),
        ns: namespace,
        op: told.operation.clone(),
        result: outcome,
        detail: detail.map(|detail| clean(&detail, DETAIL)),
        approval: told.approval.unwrap_or("none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(shed: &str) -> Asked {
        let shed = shed_api::PluginShed { name: shed.into(), backend: "qemu".into(), server: "s".into() };
        Asked { server: "http://s:8080".into(), shed, payload: serde_json::json!({"secret": "hunter2"}) }
    }

    fn read(path: &Utf8Path) -> Vec<serde_json::Value> {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_line_says_who_got_what_and_no_payload() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("a/b/audit.log");
        let audit = Audit::open(Some(&path)).unwrap();
        let mut told = Told { operation: "sign".into(), detail: Some("k".into()), approval: Some("prompt") };
        audit.write(&asked("api"), "ssh-agent", &told, Ok(())).await.unwrap();
        let denied = Failure::new(Code::SignFailed, APPROVAL_DENIED);
        audit.write(&asked("api"), "ssh-agent", &told, Err(&denied)).await.unwrap();
        // An error that is the detail already is not told twice.
        told.detail = Some("approval denied: by nobody".into());
        audit.write(&asked("api"), "ssh-agent", &told, Err(&denied)).await.unwrap();
        told = Told::default();
        let failed = Failure::new(Code::InternalError, "x\ny".repeat(10_000));
        audit.write(&asked("a\n{}\u{1b}"), "ssh-agent", &told, Err(&failed)).await.unwrap();
        let lines = read(&path);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["result"], "ok");
        assert_eq!((&lines[0]["shed"], &lines[0]["ns"]), (&"api".into(), &"ssh-agent".into()));
        assert_eq!((&lines[0]["approval"], &lines[0]["detail"]), (&"prompt".into(), &"k".into()));
        assert_eq!(
            (&lines[1]["result"], &lines[1]["detail"]),
            (&"denied".into(), &"k: approval denied".into())
        );
        assert_eq!(lines[2]["detail"], "approval denied: by nobody");
        assert_eq!((&lines[3]["result"], &lines[3]["approval"]), (&"error".into(), &"none".into()));
        assert!(lines[3]["detail"].as_str().unwrap().chars().count() <= DETAIL + 1);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter2"));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let audit = Audit::open(Some(&dir.join("audit.log"))).unwrap();
        std::fs::remove_file(dir.join("audit.log")).unwrap();
        std::fs::create_dir(dir.join("audit.log")).unwrap();
        let error = audit.write(&asked("a"), "ssh-agent", &Told::default(), Ok(())).await.unwrap_err();
        assert!(error.to_string().contains("audit.log"), "{error}");
        assert!(Audit::open(Some(&dir.join("audit.log"))).is_err());
    }

    #[tokio::test]
    async fn a_shed_that_floods_gets_few_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("audit.log");
        let audit = Audit::open(Some(&path)).unwrap();
        let kept = audit.0.as_ref().unwrap();
        let begin = Instant::now();
        let counts: Vec<_> = (0..2500)
            .filter_map(|ms| kept.count_refusal(&asked("a"), begin + Duration::from_millis(ms)))
            .collect();
        assert_eq!(counts, [1, 1000, 1000]);
        assert_eq!(kept.count_refusal(&asked("b"), begin), Some(1));
    }
}
