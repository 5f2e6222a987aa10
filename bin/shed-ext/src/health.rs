//! `shed-ext health`: whether what the server has enabled works in this shed: the services here, and who answers them.

use std::{fs, net::Ipv4Addr, path::Path, process::ExitCode, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;
use shed_extensions::{Pong, aws, docker, ssh};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    command_line::{AWS_PORT, Place},
    say,
};

/// What shed-agent has enabled in this boot; it writes the file.
const ENABLED: &str = "/run/shed-extensions.json";

/// How long each question may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Content of [`ENABLED`], as far as it matters here.
#[derive(Debug, Deserialize)]
struct Enabled {
    namespaces: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Line {
    namespace: &'static str,
    guest: &'static str,
    host: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

/// Looks at each enabled extension; 0 when all work, else 1.
pub(crate) async fn run(place: Place, json: bool) -> ExitCode {
    let enabled = enabled(Path::new(ENABLED));
    let mut lines = Vec::new();
    for namespace in [ssh::NAMESPACE, aws::NAMESPACE, docker::NAMESPACE] {
        if enabled.as_ref().is_none_or(|enabled| enabled.iter().any(|name| name == namespace)) {
            lines.push(look(&place, namespace).await);
        }
    }
    if json {
        say::answer(&json!({ "extensions": lines }).to_string());
    } else if lines.is_empty() {
        say::answer(
            "the server enables no extension of Shed's for this shed: see extensions.enabled in server.yaml",
        );
    } else {
        lines.iter().for_each(|line| say::answer(&line.text()));
    }
    if lines.iter().all(Line::works) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Which extensions are enabled; nothing when that is not known, as outside a shed.
fn enabled(path: &Path) -> Option<Vec<String>> {
    let text = fs::read(path).ok()?;
    serde_json::from_slice::<Enabled>(&text).ok().map(|enabled| enabled.namespaces)
}

async fn look(place: &Place, namespace: &'static str) -> Line {
    let here = match namespace {
        ssh::NAMESPACE => {
            let socket = place.run_dir.file(crate::ssh::SOCKET);
            matches!(timeout(LIMIT, UnixStream::connect(socket)).await, Ok(Ok(_)))
        }
        aws::NAMESPACE => {
            let connect = TcpStream::connect((Ipv4Addr::LOCALHOST, AWS_PORT));
            matches!(timeout(LIMIT, connect).await, Ok(Ok(_)))
        }
        // Docker starts its helper itself.
        _ => true,
    };
    let answer = place.bus.ask::<Pong>(namespace, &json!({ "operation": "ping" }), LIMIT).await;
    let hint = match (&answer, here) {
        (Err(error), _) => error.to_string(),
        (Ok(_), false) => {
            format!("{namespace}: its service does not answer: see `systemctl status 'shed-*'`.")
        }
        (Ok(_), true) => String::new(),
    };
    Line {
        namespace,
        guest: if here { "running" } else { "stopped" },
        host: if answer.is_ok() { "connected" } else { "unreachable" },
        hint,
    }
}

impl Line {
    fn works(&self) -> bool {
        self.hint.is_empty()
    }

    fn text(&self) -> String {
        let Self { namespace, guest, host, hint } = self;
        let mark = if self.works() { '✓' } else { '✗' };
        let hint = if hint.is_empty() { String::new() } else { format!(": {}", say::one_line(hint)) };
        format!("{mark} {namespace}: guest {guest}, host {host}{hint}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enabled_is_read_and_nonsense_is_as_if_it_were_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(enabled(&path), None);
        fs::write(&path, r#"{"namespaces":["ssh-agent"],"more":1}"#).unwrap();
        assert_eq!(enabled(&path), Some(vec!["ssh-agent".to_owned()]));
        fs::write(&path, "[").unwrap();
        assert_eq!(enabled(&path), None);
    }
}
