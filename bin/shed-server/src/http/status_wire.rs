//! From what is known of a shed and its guest to the JSON of the API. Texts of guests are clean already.

use shed_api::{
    ChannelState, GuestEvent, GuestMetrics, HealthState, LogLine, SetupStatus, SetupStep, StatusReport,
    StepFailure,
};
use shed_lifecycle::ShedReport;
use shed_protocol::{
    Failure, GuestEvent as Told, HealthReport, HealthStatus, LogEntry, Metrics, Occasion, SetupReport, Step,
    StepEnd, StepReport,
};

use super::wire;

/// Returns how a shed is.
pub(super) fn report(report: ShedReport) -> StatusReport {
    let ShedReport { shed, guest } = report;
    let mut status = StatusReport {
        name: shed.name.to_string(),
        status: wire::status(shed.status),
        channel: None,
        last_healthy: None,
        started_at: None,
        health: None,
        metrics: None,
        setup: None,
        events: Vec::new(),
        warnings: shed.warnings,
        error: shed.error,
    };
    if let Some(guest) = guest {
        status.channel = Some(if guest.channel_open { ChannelState::Open } else { ChannelState::Lost });
        status.last_healthy = guest.reported_at;
        status.started_at = shed.agent_started_at;
        status.events = guest.events.into_iter().map(event).collect();
        if !guest.channel_open {
            status
                .warnings
                .push("its agent cannot be reached; what is shown is what it said last".to_owned());
        }
        if let Some(HealthReport {
            status: health,
            metrics: measured,
            setup: steps,
            started_at: _,
            extensions: _,
        }) = guest.report
        {
            status.health = Some(match health {
                HealthStatus::Ok => HealthState::Ok,
                HealthStatus::Degraded => HealthState::Degraded,
            });
            if health == HealthStatus::Degraded {
                status.warnings.push("its root file system cannot be written".to_owned());
            }
            status.metrics = measured.map(|measured| metrics(&measured));
            status.setup = steps.map(setup);
        }
    }
    status
}

/// Returns something that has happened in a guest.
pub(super) fn event(told: Told) -> GuestEvent {
    let plain = |kind: &str, at, message| GuestEvent {
        kind: kind.to_owned(),
        at,
        message,
        unit: None,
        result: None,
        times: None,
        process: None,
        occasion: None,
        step: None,
        failure: None,
    };
    match told {
        Told::UnitFailed { unit, result, at, times } => {
            let often = if times > 1 { format!(", {times} times") } else { String::new() };
            let message = format!("{unit} failed ({result}){often}");
            GuestEvent {
                unit: Some(unit),
                result: Some(result),
                times: Some(times),
                ..plain("unit_failed", at, message)
            }
        }
        Told::OutOfMemory { process, at } => {
            let message = format!("the kernel killed {process} for want of memory");
            GuestEvent { process: Some(process), ..plain("out_of_memory", at, message) }
        }
        Told::StepEnded { occasion, step, end, at } => {
            let (result, failure) = step_end(end);
            let because =
                failure.as_ref().map(|failure| format!(": {}", failure.message)).unwrap_or_default();
            let message = format!("{} of the {}: {result}{because}", step.as_str(), self::occasion(occasion));
            GuestEvent {
                result: Some(result),
                occasion: Some(self::occasion(occasion).to_owned()),
                step: Some(step.as_str().to_owned()),
                failure,
                ..plain("step_ended", at, message)
            }
        }
    }
}

/// Returns an entry of a journal.
pub(super) fn line(entry: LogEntry) -> LogLine {
    let at = i64::try_from(entry.at_us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    LogLine {
        at,
        unit: entry.unit,
        identifier: entry.identifier,
        pid: entry.pid,
        priority: entry.priority,
        message: entry.message,
    }
}

fn metrics(measured: &Metrics) -> GuestMetrics {
    let Metrics {
        cpu_percent,
        cpus,
        memory_total,
        memory_used,
        disk_total,
        disk_used,
        load,
        uptime_s,
        tasks,
    } = *measured;
    GuestMetrics {
        // A hundredth is more than anybody sees.
        cpu_percent: cpu_percent.map(|value| (value * 100.0).round() / 100.0),
        cpus,
        memory_total,
        memory_used,
        disk_total,
        disk_used,
        load,
        uptime_s,
        tasks,
    }
}

fn setup(report: SetupReport) -> SetupStatus {
    SetupStatus {
        occasion: occasion(report.occasion).to_owned(),
        running: report.running.map(Step::as_str).map(str::to_owned),
        steps: report.steps.into_iter().map(step).collect(),
    }
}

fn step(report: StepReport) -> SetupStep {
    let (result, failure) = step_end(report.end);
    let step = report.step.as_str().to_owned();
    SetupStep { step, result, failure, began_at: report.began_at, took_ms: report.took_ms }
}

fn step_end(end: StepEnd) -> (String, Option<StepFailure>) {
    let (result, failure) = match end {
        StepEnd::Done => ("done", None),
        StepEnd::Skipped => ("skipped", None),
        StepEnd::Failed(Failure { message, code, timed_out, last_lines, log }) => {
            ("failed", Some(StepFailure { message, code, timed_out, last_lines, log }))
        }
    };
    (result.to_owned(), failure)
}

const fn occasion(occasion: Occasion) -> &'static str {
    match occasion {
        Occasion::Create => "create",
        Occasion::Start => "start",
        Occasion::Stop => "stop",
    }
}
