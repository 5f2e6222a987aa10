//! The directory that the services of a shed share: sockets, and how the bus was when each began.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use shed_extensions::Pong;

use crate::{bus::Bus, say};

/// The directory, by default; systemd makes it for the units (spec J.3).
const DIRECTORY: &str = "/run/shed-extensions";

/// How long the bus may take to answer when a service begins (spec J.3).
const PING: Duration = Duration::from_secs(2);

/// The directory.
#[derive(Debug, Clone)]
pub(crate) struct RunDir(PathBuf);

impl Default for RunDir {
    fn default() -> Self {
        Self(DIRECTORY.into())
    }
}

/// Content of `<namespace>.status`.
#[derive(Debug, Serialize)]
struct StartStatus<'a> {
    namespace: &'a str,
    connected: bool,
    checked_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl RunDir {
    /// Takes another directory.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the directory where nobody has.
    pub(crate) fn make(&self) -> io::Result<()> {
        fs::create_dir_all(&self.0)
    }

    /// Asks over the bus whether anybody is there and writes down what came of it, for people: nothing depends on it.
    pub(crate) async fn note_start(&self, name: &str, namespace: &'static str, bus: &Bus) {
        let asked = bus.ask::<Pong>(namespace, &json!({ "operation": "ping" }), PING).await;
        let error = asked.err().map(|error| error.to_string());
        if let Some(error) = &error {
            say::note(name, &format!("{error} The service runs and asks again with each request."));
        }
        let status =
            StartStatus { namespace, connected: error.is_none(), checked_at: Timestamp::now(), error };
        let text = serde_json::to_vec(&status).unwrap_or_default();
        if let Err(error) = write_whole(&self.file(&format!("{namespace}.status")), &text) {
            say::note(name, &format!("cannot write {namespace}.status: {error}"));
        }
    }
}

/// Replaces a file as a whole. It is gone with the boot and so not synced.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
    let written = file.write_all(content).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _gone = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn how_the_bus_was_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::at(dir.path().to_owned());
        // Nobody listens on port 1 of the loopback.
        let bus = Bus::at("http://127.0.0.1:1").unwrap();
        for _ in 0..2 {
            run_dir.note_start("test", "ssh-agent", &bus).await;
        }
        let text = fs::read_to_string(dir.path().join("ssh-agent.status")).unwrap();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&status["connected"], &status["namespace"]), (&json!(false), &json!("ssh-agent")));
        assert!(status["error"].as_str().unwrap().contains("127.0.0.1:1"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
