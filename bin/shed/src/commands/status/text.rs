//! A status for people: all of it over several lines, or the gist on one. Pure; control characters do not pass.

use std::time::Duration;

use jiff::Timestamp;
use shed_api::{ChannelState, GuestEvent, GuestMetrics, HealthState, SetupStatus, SetupStep, StatusReport};

use crate::{servers::Server, sizes, times, ui::clean};

/// Returns all that is known.
pub(super) fn whole(report: &StatusReport, server: &Server, now: Timestamp) -> String {
    let mut lines: Vec<(&str, Option<String>)> = vec![
        ("Server", Some(format!("{} ({})", server.name, server.entry.url()))),
        ("Status", Some(report.status.as_str().to_owned())),
        ("Error", report.error.clone()),
        ("Agent", report.channel.map(|channel| agent(channel, report, now))),
        ("Health", report.health.map(|health| self::health(health).to_owned())),
    ];
    if let Some(metrics) = &report.metrics {
        lines.extend([
            ("CPU", Some(cpu(metrics))),
            ("Load", Some(load(metrics))),
            ("Memory", Some(of(metrics.memory_used, metrics.memory_total))),
            ("Disk", Some(of(metrics.disk_used, metrics.disk_total))),
            ("Tasks", Some(metrics.tasks.to_string())),
            ("Up", Some(uptime(metrics.uptime_s))),
        ]);
    }
    let mut out = format!("{}\n", clean(&report.name));
    for (key, value) in lines {
        if let Some(value) = value {
            let value = clean(&value).replace('\n', "\n              ");
            out.push_str(&format!("  {:<11} {value}\n", format!("{key}:")));
        }
    }
    if let Some(setup) = &report.setup {
        out.push_str(&steps(setup));
    }
    if !report.events.is_empty() {
        out.push_str("  Events:\n");
        for event in &report.events {
            out.push_str(&format!("    {}\n", event_line(event)));
        }
    }
    for warning in &report.warnings {
        out.push_str(&format!("  Warning:    {}\n", one_line(warning)));
    }
    out
}

/// Returns the gist on one line.
pub(super) fn gist(report: &StatusReport) -> String {
    let mut words = vec![report.status.as_str().to_owned()];
    words.extend(
        report.channel.filter(|channel| *channel == ChannelState::Lost).map(|_| "agent lost".to_owned()),
    );
    if let Some(metrics) = &report.metrics {
        words.push(format!("cpu {}", cpu(metrics)));
        words.push(format!("load {}", load(metrics)));
        words.push(format!("memory {}", of(metrics.memory_used, metrics.memory_total)));
        words.push(format!("disk {}", of(metrics.disk_used, metrics.disk_total)));
    }
    words.extend(
        report.setup.as_ref().and_then(|setup| setup.running.as_ref()).map(|step| format!("{step} runs")),
    );
    words.extend(report.error.clone());
    one_line(&words.join(", "))
}

/// Returns an event on one line, with its time.
pub(super) fn event_line(event: &GuestEvent) -> String {
    one_line(&format!("{}  {}", seconds(event.at), event.message))
}

/// Returns a time in whole seconds.
pub(super) fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn agent(channel: ChannelState, report: &StatusReport, now: Timestamp) -> String {
    let started = report.started_at.map(|then| format!("started {}", times::ago(then, now)));
    let heard = report.last_healthy.map(|then| format!("heard {}", times::ago(then, now)));
    let state = match channel {
        ChannelState::Open => "connected",
        ChannelState::Lost => "lost",
    };
    [Some(state.to_owned()), heard, started].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

const fn health(health: HealthState) -> &'static str {
    match health {
        HealthState::Ok => "ok",
        HealthState::Degraded => "degraded",
    }
}

fn cpu(metrics: &GuestMetrics) -> String {
    match metrics.cpu_percent {
        Some(percent) => format!("{percent:.1}% of {}", metrics.cpus),
        None => format!("? of {}", metrics.cpus),
    }
}

fn load(metrics: &GuestMetrics) -> String {
    metrics.load.map(|average| format!("{average:.2}")).join(" ")
}

fn of(used: u64, total: u64) -> String {
    let percent = if total == 0 { 0 } else { u128::from(used) * 100 / u128::from(total) };
    format!("{} of {} ({percent}%)", sizes::human(used), sizes::human(total))
}

fn uptime(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.map_or_else(|| "?".to_owned(), |then| times::uptime(Timestamp::UNIX_EPOCH, then))
}

/// Returns the clone and the hooks, each with its time and, if it failed, why, and where the rest is.
fn steps(setup: &SetupStatus) -> String {
    let state = match &setup.running {
        Some(step) => format!("{step} runs"),
        None if setup.steps.iter().any(|step| step.failure.is_some()) => "failed".to_owned(),
        None => "done".to_owned(),
    };
    let mut out = format!("  {:<11} {}\n", "Setup:", one_line(&format!("{}: {state}", setup.occasion)));
    for SetupStep { step, result, failure, took_ms, began_at: _ } in &setup.steps {
        let took =
            if result == "skipped" { String::new() } else { times::elapsed(Duration::from_millis(*took_ms)) };
        let mut line = format!("{step:<10} {result:<8} {took}");
        if let Some(failure) = failure {
            line.push_str(&format!("  {}", failure.message));
        }
        out.push_str(&format!("    {}\n", one_line(&line).trim_end()));
        let Some(failure) = failure else { continue };
        for line in &failure.last_lines {
            out.push_str(&format!("      | {}\n", one_line(line)));
        }
        if let Some(log) = &failure.log {
            out.push_str(&format!("      the rest is in the shed, in {}\n", one_line(log)));
        }
    }
    out
}

fn one_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ServerEntry, ServerName},
        servers::Origin,
    };

    fn server() -> Server {
        Server { name: ServerName::local(), entry: ServerEntry::this_machine(), origin: Origin::Configured }
    }

    fn report(text: &str) -> StatusReport {
        serde_json::from_str(text).unwrap()
    }

    fn example() -> StatusReport {
        report(include_str!("../../../../../crates/shed-api/fixtures/status.json"))
    }

    #[test]
    fn a_running_shed_shows_all_that_is_known() {
        let now = "2026-01-20T10:30:07Z".parse().unwrap();
        insta::assert_snapshot!(whole(&example(), &server(), now), @r#"
        api
          Server:     local (http://127.0.0.1:8080)
          Status:     running
          Agent:      connected, heard 7 seconds ago, started 30 minutes ago
          Health:     ok
          CPU:        12.5% of 2
          Load:       0.25 0.50 0.12
          Memory:     205MiB of 1.9GiB (10%)
          Disk:       1000MiB of 19.5GiB (5%)
          Tasks:      97
          Up:         30m 4s
          Setup:      create: failed
            clone      done     0.8s
            install    skipped
            startup    failed   30.0s  it ended with exit code 2
              | make: *** [all] Error 2
              the rest is in the shed, in /var/log/shed/startup.log
          Events:
            2026-01-20T10:12:00Z  nginx.service failed (exit-code), 3 times
            2026-01-20T10:13:00Z  the kernel killed 812 (python3) for want of memory
            2026-01-20T10:00:03Z  install of the create: skipped
          Warning:    its root file system cannot be written
        "#);
    }

    #[test]
    fn a_stopped_shed_shows_why_and_nothing_of_a_guest() {
        let stopped = report(include_str!("../../../../../crates/shed-api/fixtures/status-stopped.json"));
        insta::assert_snapshot!(whole(&stopped, &server(), Timestamp::UNIX_EPOCH), @r#"
        api
          Server:     local (http://127.0.0.1:8080)
          Status:     stopped
          Error:      the last start failed: the guest did not answer
        "#);
        insta::assert_snapshot!(gist(&stopped), @"stopped, the last start failed: the guest did not answer");
    }

    #[test]
    fn the_gist_is_one_line() {
        insta::assert_snapshot!(gist(&example()), @"running, cpu 12.5% of 2, load 0.25 0.50 0.12, memory 205MiB of 1.9GiB (10%), disk 1000MiB of 19.5GiB (5%)");
        insta::assert_snapshot!(event_line(&example().events[0]), @"2026-01-20T10:12:00Z  nginx.service failed (exit-code), 3 times");
    }

    #[test]
    fn a_server_that_passes_hostile_texts_on_steers_no_terminal() {
        let hostile = r#"{"name":"\u001b[2J","status":"running","error":"a\u001b]0;t\u0007\nb","channel":"lost",
            "metrics":{"cpu_percent":1e300,"cpus":0,"memory_total":0,"memory_used":18446744073709551615,"disk_total":1,
            "disk_used":18446744073709551615,"load":[0,1e300,0],"uptime_s":18446744073709551615,"tasks":1},
            "setup":{"occasion":"x\ny","steps":[{"step":"\u001b","result":"failed","began_at":"2026-01-01T00:00:00Z",
            "took_ms":18446744073709551615,"failure":{"message":"\u001b","last_lines":["\u009b31m"],"log":"\n"}}]},
            "events":[{"kind":"k","at":"2026-01-01T00:00:00Z","message":"\u001b\nx"}],"warnings":["\u001b"]}"#;
        let report = report(hostile);
        for text in
            [whole(&report, &server(), Timestamp::UNIX_EPOCH), gist(&report), event_line(&report.events[0])]
        {
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}
