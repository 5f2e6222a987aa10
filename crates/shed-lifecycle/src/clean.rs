//! What guests say of themselves, made fit for logs, terminals and memory: texts without control characters and of a
//! bounded length, numbers that can be. Pure; everything of the message channel passes here before anybody sees it.

use std::collections::BTreeSet;

use shed_protocol::{
    Failure, GuestEvent, HealthReport, LogEntry, Metrics, SetupReport, StepEnd, StepReport, logs::MAX_MESSAGE,
};
use shed_types::Namespace;

use crate::console::strip_escapes;

/// Longest name of a unit, program or file that is kept, in characters.
const NAME: usize = 256;

/// Longest sentence of a guest that is kept, in characters (shed-protocol, [`Failure::message`]).
const SENTENCE: usize = 1000;

/// Longest of the last lines of a step (spec D), and how many there are.
const LAST_LINES: (usize, usize) = (5, 400);

/// Most steps of a setup: there are five kinds.
const STEPS: usize = 8;

/// Returns a health report as it may be shown, with the states of the extensions that the server enables.
pub(crate) fn report(mut report: HealthReport, enabled: &BTreeSet<Namespace>) -> HealthReport {
    report.extensions.retain(|namespace, _| enabled.contains(namespace));
    HealthReport { metrics: report.metrics.as_ref().map(metrics), setup: report.setup.map(setup), ..report }
}

/// Returns an event as it may be shown.
pub(crate) fn event(event: GuestEvent) -> GuestEvent {
    match event {
        GuestEvent::StepEnded { occasion, step, end, at } => {
            GuestEvent::StepEnded { occasion, step, end: step_end(end), at }
        }
        GuestEvent::UnitFailed { unit, result, at, times } => GuestEvent::UnitFailed {
            unit: text(&unit, NAME),
            result: text(&result, NAME),
            at,
            times: times.max(1),
        },
        GuestEvent::OutOfMemory { process, at } => {
            GuestEvent::OutOfMemory { process: text(&process, NAME), at }
        }
    }
}

/// Returns a log entry as it may be shown; its message may have several lines.
pub(crate) fn entry(entry: LogEntry) -> LogEntry {
    let name = |name: Option<String>| name.map(|name| text(&name, NAME)).filter(|name| !name.is_empty());
    let lines: Vec<String> = entry.message.split('\n').map(strip_escapes).collect();
    let mut message = lines.join("\n");
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    LogEntry {
        unit: name(entry.unit),
        identifier: name(entry.identifier),
        priority: entry.priority.map(|priority| priority.min(7)),
        message,
        ..entry
    }
}

fn metrics(metrics: &Metrics) -> Metrics {
    let load = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
    let cpu_percent = metrics.cpu_percent.filter(|value| value.is_finite());
    Metrics {
        cpu_percent: cpu_percent.map(|value| value.clamp(0.0, 100.0)),
        memory_used: metrics.memory_used.min(metrics.memory_total),
        disk_used: metrics.disk_used.min(metrics.disk_total),
        load: metrics.load.map(load),
        ..*metrics
    }
}

fn setup(mut report: SetupReport) -> SetupReport {
    report.steps.truncate(STEPS);
    let step = |step: StepReport| StepReport { end: step_end(step.end), ..step };
    SetupReport { steps: report.steps.into_iter().map(step).collect(), ..report }
}

fn step_end(end: StepEnd) -> StepEnd {
    match end {
        StepEnd::Done => StepEnd::Done,
        StepEnd::Skipped => StepEnd::Skipped,
        StepEnd::Failed(failure) => StepEnd::Failed(Failure {
            message: text(&failure.message, SENTENCE),
            last_lines: failure
                .last_lines
                .iter()
                .take(LAST_LINES.0)
                .map(|line| text(line, LAST_LINES.1))
                .collect(),
            log: failure.log.map(|log| text(&log, NAME)),
            ..failure
        }),
    }
}

fn text(text: &str, most: usize) -> String {
    strip_escapes(text).chars().filter(|c| !c.is_control()).take(most).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use shed_protocol::{ExtensionInGuest, ExtensionOnHost, ExtensionReport, HealthStatus, Occasion, Step};

    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;t\u{7}\r\n\0b";

    fn hostile() -> String {
        HOSTILE.repeat(1000)
    }

    fn assert_clean(text: &str, most: usize) {
        assert!(text.chars().count() <= most && !text.chars().any(char::is_control), "{text:?}");
    }

    #[test]
    fn everything_that_a_guest_says_is_cut_and_printable() {
        let at = Timestamp::UNIX_EPOCH;
        let failure = Failure {
            message: hostile(),
            code: Some(-1),
            timed_out: true,
            last_lines: vec![hostile(); 100],
            log: Some(hostile()),
        };
        let end = StepEnd::Failed(failure);
        let step = StepReport { step: Step::Install, end: end.clone(), began_at: at, took_ms: u64::MAX };
        let setup = SetupReport { occasion: Occasion::Create, running: None, steps: vec![step; 100] };
        let metrics = Metrics {
            cpu_percent: Some(-4.0),
            cpus: u32::MAX,
            memory_total: 1,
            memory_used: 2,
            disk_total: 0,
            disk_used: u64::MAX,
            load: [f64::NAN, f64::INFINITY, -1.0],
            uptime_s: u64::MAX,
            tasks: u64::MAX,
        };
        // One that makes up extensions hides none of those that are enabled.
        let state = ExtensionReport { guest: ExtensionInGuest::Failed, host: ExtensionOnHost::Unknown };
        let names = (0..1000).map(|number| format!("a{number}")).chain(["ssh-agent".to_owned()]);
        let said = HealthReport {
            status: HealthStatus::Degraded,
            started_at: at,
            metrics: Some(metrics),
            setup: Some(setup),
            extensions: names.map(|name| (name.parse().unwrap(), state)).collect(),
        };
        let enabled = ["ssh-agent", "docker"].map(|name| name.parse().unwrap()).into();
        let report = report(said, &enabled);
        assert_eq!(report.extensions, [("ssh-agent".parse().unwrap(), state)].into());
        let metrics = report.metrics.unwrap();
        assert_eq!((metrics.cpu_percent, metrics.load), (Some(0.0), [0.0; 3]));
        assert_eq!((metrics.memory_used, metrics.disk_used), (1, 0));
        let steps = report.setup.unwrap().steps;
        assert_eq!(steps.len(), STEPS);
        let step_ended =
            event(GuestEvent::StepEnded { occasion: Occasion::Stop, step: Step::Clone, end, at });
        let GuestEvent::StepEnded { end, .. } = step_ended else { panic!("{step_ended:?}") };
        for end in steps.into_iter().map(|step| step.end).chain([end]) {
            let StepEnd::Failed(failure) = end else { panic!("{end:?}") };
            assert_clean(&failure.message, SENTENCE);
            assert_clean(&failure.log.unwrap(), NAME);
            assert_eq!(failure.last_lines.len(), LAST_LINES.0);
            failure.last_lines.iter().for_each(|line| assert_clean(line, LAST_LINES.1));
        }
        let failed = event(GuestEvent::UnitFailed { unit: hostile(), result: hostile(), at, times: 0 });
        let GuestEvent::UnitFailed { unit, result, times: 1, .. } = failed else { panic!("{failed:?}") };
        assert_clean(&unit, NAME);
        assert_clean(&result, NAME);
        let killed = event(GuestEvent::OutOfMemory { process: hostile(), at });
        let GuestEvent::OutOfMemory { process, .. } = killed else { panic!("{killed:?}") };
        assert_clean(&process, NAME);
    }

    #[test]
    fn an_entry_keeps_its_lines_and_tabs_and_nothing_else_that_moves_a_cursor() {
        let dirty = LogEntry {
            at_us: u64::MAX,
            unit: Some("\u{1b}[31m".into()),
            identifier: Some(hostile()),
            pid: None,
            priority: Some(200),
            message: format!("one\ttab\n{HOSTILE}\u{1b}[31mred\u{9b}31m"),
        };
        let clean = entry(dirty);
        assert_eq!((clean.unit, clean.priority), (None, Some(7)));
        assert_clean(&clean.identifier.unwrap(), NAME);
        assert_eq!(clean.message, "one\ttab\na\nbred");
        let long = LogEntry {
            message: "ä".repeat(MAX_MESSAGE),
            ..LogEntry {
                at_us: 0,
                unit: None,
                identifier: None,
                pid: None,
                priority: None,
                message: String::new(),
            }
        };
        assert!(entry(long).message.len() <= MAX_MESSAGE);
    }
}
