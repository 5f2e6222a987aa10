//! What people read of the agent. All texts in it were cleaned by the agent.

use std::fmt::Write;

use shed_extensions::ssh::Mode;
use shed_host_agent::{approval::Waiting, bus::LinkState, control::AgentStatus};

/// Returns how the agent is, in some lines.
pub(crate) fn status(status: &AgentStatus) -> String {
    let mut text = format!("shed-host-agent {} runs as process {}\n", status.version, status.pid);
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{name:<12} {value}").expect("a String takes everything");
    };
    match &status.config {
        Some(path) => line("config", path),
        None => line("config", &"defaults"),
    }
    let mode = match status.ssh.mode {
        Mode::AgentForward => "the user's SSH agent",
        Mode::LocalKeys => "files in ~/.ssh",
    };
    let answers = if status.ssh.connected { "" } else { "; it cannot sign now" };
    line("ssh", &format_args!("{} keys from {mode}{answers}", status.ssh.key_count));
    match &status.approval {
        Some(policy) => line("approval", &format_args!("{policy}, {} waiting", status.waiting)),
        None => line("approval", &"off"),
    }
    match &status.audit {
        Some(path) => line("audit log", path),
        None => line("audit log", &"off"),
    }
    for link in &status.connections {
        let state = match link.state {
            LinkState::Connecting => "connecting",
            LinkState::Listening => "✓ listening",
            LinkState::Held => "✗ held by another agent",
            LinkState::Broken => "✗ not connected",
        };
        let reason = link.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        line(&link.namespace, &format_args!("{} {state} since {}{reason}", link.server, link.since));
    }
    for left_out in &status.not_offered {
        line(&left_out.namespace, &format_args!("not offered: {}", left_out.reason));
    }
    text
}

/// Returns what waits for approval.
pub(crate) fn waiting(waiting: &[Waiting]) -> String {
    if waiting.is_empty() {
        return "nothing waits for approval\n".to_owned();
    }
    waiting.iter().map(question).collect()
}

/// Returns one request that waits.
pub(crate) fn question(waiting: &Waiting) -> String {
    format!("{}  {}  {}\n", waiting.id, waiting.question.asked_at, waiting.question.text())
}
