//! `shed-ext status`: how the other sides of Shed's extensions are (spec J.3).

use std::{process::ExitCode, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use shed_extensions::{aws, docker, ssh};

use crate::{bus::Bus, say};

/// How long each may take (spec J.3).
const LIMIT: Duration = Duration::from_secs(2);

/// How one of them is.
#[derive(Debug, Serialize)]
struct Line {
    namespace: &'static str,
    connected: bool,
    /// What more it says of itself, or why it is not connected and what to do.
    detail: String,
}

/// Asks all three side by side and says how they are; 0 when all are connected, else 1.
pub(crate) async fn run(bus: Bus, json: bool) -> ExitCode {
    let ssh = line::<ssh::Status>(&bus, ssh::NAMESPACE, |status| (status.connected, of_ssh(&status)));
    let aws = line::<aws::Status>(&bus, aws::NAMESPACE, |status| (status.connected, of_aws(&status)));
    let docker =
        line::<docker::Status>(&bus, docker::NAMESPACE, |status| (status.connected, of_docker(&status)));
    let (ssh, aws, docker) = tokio::join!(ssh, aws, docker);
    let lines = [ssh, aws, docker];
    if json {
        say::answer(&json!({ "extensions": lines }).to_string());
    } else {
        lines.iter().for_each(|line| say::answer(&line.text()));
    }
    if lines.iter().all(|line| line.connected) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Line {
    fn text(&self) -> String {
        let Self { namespace, connected, detail } = self;
        let detail = say::one_line(detail);
        if *connected {
            format!("✓ {namespace}: connected ({detail})")
        } else {
            format!("✗ {namespace}: not connected ({detail})")
        }
    }
}

async fn line<S: DeserializeOwned>(
    bus: &Bus,
    namespace: &'static str,
    read: impl FnOnce(S) -> (bool, String),
) -> Line {
    match bus.ask::<S>(namespace, &json!({ "operation": "status" }), LIMIT).await {
        Ok(status) => {
            let (connected, detail) = read(status);
            Line { namespace, connected, detail }
        }
        Err(error) => {
            // The line begins with the namespace already.
            let error = error.to_string();
            let detail = error.strip_prefix(&format!("{namespace}: ")).unwrap_or(&error);
            Line { namespace, connected: false, detail: detail.trim_end_matches('.').to_owned() }
        }
    }
}

fn of_ssh(status: &ssh::Status) -> String {
    let mode = match status.mode {
        ssh::Mode::AgentForward => "agent-forward",
        ssh::Mode::LocalKeys => "local-keys",
    };
    let hint = if status.connected { "" } else { "; start an SSH agent on your machine, or add a key to it" };
    format!("{mode}, {}{hint}", count(status.key_count, "key", "keys"))
}

fn of_aws(status: &aws::Status) -> String {
    let role = if status.role.is_empty() {
        "no role: set aws.default_role in ~/.config/shed/extensions.yaml on your machine".to_owned()
    } else {
        status.role.clone()
    };
    let hint =
        if status.connected { "" } else { "; no credentials on your machine: see `aws configure` there" };
    match status.cached_until {
        Some(until) => format!("{role}, credentials until {until}{hint}"),
        None => format!("{role}{hint}"),
    }
}

fn of_docker(status: &docker::Status) -> String {
    let allowed = if status.allow_all {
        "all registries".to_owned()
    } else {
        count(status.registry_count, "registry", "registries")
    };
    let hint = if status.connected {
        ""
    } else {
        "; no configuration of Docker on your machine: see `docker login`"
    };
    format!("{allowed}{hint}")
}

fn count(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_there_is() {
        let status = ssh::Status { connected: true, mode: ssh::Mode::LocalKeys, key_count: 1 };
        let line = Line { namespace: "ssh-agent", connected: true, detail: of_ssh(&status) };
        assert_eq!(line.text(), "✓ ssh-agent: connected (local-keys, 1 key)");
        let status = docker::Status { connected: true, allow_all: false, registry_count: 2 };
        assert_eq!(of_docker(&status), "2 registries");
        let until = "2026-01-20T10:30:00Z".parse().unwrap();
        let status = aws::Status { connected: true, role: "r".into(), cached_until: Some(until) };
        assert_eq!(of_aws(&status), "r, credentials until 2026-01-20T10:30:00Z");
    }
}
