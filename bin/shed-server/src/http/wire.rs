//! From the lifecycle's view of a shed to the JSON of the API (spec A.4).

use shed_api::{ExtensionInGuest, ExtensionOnHost, ExtensionState, ImageTransfer, PhaseTime, Session, Shed};
use shed_lifecycle::{PhaseTiming, ProgressUpdate, ShedStatus, ShedView, Started, Stopped, TmuxSession};
use shed_protocol::ExtensionReport;
use shed_types::{Repo, ShedName};

/// Returns a shed as clients see it.
pub(super) fn shed(view: ShedView) -> Shed {
    Shed {
        name: view.name.to_string(),
        status: status(view.status),
        created_at: view.created_at,
        // Records of earlier versions may have passwords.
        repo: view.repo.map(|repo| Repo::mask(&repo).into_owned()),
        backend: Some(view.backend.to_string()),
        ip_address: view.ip_address.map(|address| address.to_string()),
        cpus: Some(view.cpus.get()),
        memory_mb: Some(view.memory_mb.get()),
        pid: view.pid,
        rootfs_path: Some(view.rootfs_path.into_string()),
        local_dir: view.local_dir.map(camino::Utf8PathBuf::into_string),
        image: view
            .image
            .map(|image| image.to_string())
            .or_else(|| view.image_path.map(camino::Utf8PathBuf::into_string)),
        last_healthy: view.last_healthy,
        started_at: view.agent_started_at,
        extensions: view
            .extensions
            .into_iter()
            .map(|(namespace, report)| (namespace.to_string(), extension(report)))
            .collect(),
        error: view.error,
        timeline: Vec::new(),
        warnings: Vec::new(),
    }
}

fn extension(ExtensionReport { guest, host }: ExtensionReport) -> ExtensionState {
    ExtensionState {
        guest: match guest {
            shed_protocol::ExtensionInGuest::Running => ExtensionInGuest::Running,
            shed_protocol::ExtensionInGuest::Stopped => ExtensionInGuest::Stopped,
            shed_protocol::ExtensionInGuest::Failed => ExtensionInGuest::Failed,
        },
        host: match host {
            shed_protocol::ExtensionOnHost::Connected => ExtensionOnHost::Connected,
            shed_protocol::ExtensionOnHost::Unreachable => ExtensionOnHost::Unreachable,
            shed_protocol::ExtensionOnHost::Unknown => ExtensionOnHost::Unknown,
        },
    }
}

/// Returns the result of a create or start as clients see it.
pub(super) fn started(started: Started) -> Shed {
    let timeline = started.timeline.iter().map(phase_time).collect();
    Shed { timeline, warnings: started.warnings, ..shed(started.shed) }
}

/// Returns the result of a stop as clients see it.
pub(super) fn stopped(stopped: Stopped) -> Shed {
    Shed { warnings: stopped.warnings, ..shed(stopped.shed) }
}

/// Returns a progress update as the data of its event.
pub(super) fn progress(update: ProgressUpdate) -> shed_api::ProgressEvent {
    shed_api::ProgressEvent {
        message: update.message,
        phase: Some(update.phase.as_str().to_owned()),
        elapsed_ms: Some(millis(update.elapsed)),
        warning: update.warning,
        image: update.image.map(|at| ImageTransfer {
            step: at.step.as_str().to_owned(),
            bytes_done: at.bytes_done,
            bytes_total: at.bytes_total,
            layers_done: at.layers_done,
            layers_total: at.layers_total,
        }),
        output: update.output,
    }
}

/// Returns a tmux session as clients see it.
pub(super) fn session(shed: &ShedName, session: TmuxSession) -> Session {
    Session {
        name: session.name,
        shed_name: shed.to_string(),
        server_name: None,
        created_at: session.created_at,
        attached: session.attached,
        window_count: session.window_count,
    }
}

/// Returns a status as clients see it.
pub(super) fn status(status: ShedStatus) -> shed_api::ShedStatus {
    match status {
        ShedStatus::Starting => shed_api::ShedStatus::Starting,
        ShedStatus::Running => shed_api::ShedStatus::Running,
        ShedStatus::Stopping => shed_api::ShedStatus::Stopping,
        ShedStatus::Stopped => shed_api::ShedStatus::Stopped,
        ShedStatus::Broken => shed_api::ShedStatus::Error,
    }
}

/// Returns the time of this moment, in whole seconds.
pub(super) fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn phase_time(timing: &PhaseTiming) -> PhaseTime {
    PhaseTime {
        phase: timing.phase.as_str().to_owned(),
        start_ms: millis(timing.start),
        ms: millis(timing.took),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
