//! How sheds and guests are, over the fake backend: reports that are fresh, old or missing, watches across restarts, logs
//! that end with their readers; and guests that say anything at all.

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shed_backend::fake::{FakeLogs, FakeWorld};
use shed_lifecycle::{
    LogQuery, LogStream, LogsError, NewShed, Progress, ShedNews, ShedReport, ShedStatus, ShedWatch, Sheds,
};
use shed_protocol::{Envelope, GuestEvent, LogsRefusal, SYSTEM_CREDENTIALS, SYSTEM_EVENT, SYSTEM_HEALTH};
use shed_types::{ShedName, error_chain};
use tokio::time::timeout;

use common::until;

/// Longer than anything here takes on the slowest host.
const LONG: Duration = Duration::from_secs(60);

struct Host {
    world: FakeWorld,
    sheds: Sheds,
    settings: shed_lifecycle::Settings,
    _guard: tempfile::TempDir,
}

impl Host {
    async fn new() -> Self {
        let (guard, settings) = common::settings();
        let world = FakeWorld::new();
        let sheds = Sheds::open(settings.clone(), Arc::new(world.backend())).await.unwrap();
        Self { world, sheds, settings, _guard: guard }
    }

    /// Ends the server and starts another one.
    async fn restart(&mut self) {
        self.sheds.close().await;
        let (_dir, nowhere) = common::settings();
        // The lock of the directory goes with the last handle.
        self.sheds = Sheds::open(nowhere, Arc::new(FakeWorld::new().backend())).await.unwrap();
        self.sheds = Sheds::open(self.settings.clone(), Arc::new(self.world.backend())).await.unwrap();
    }

    async fn create(&self, name: &str) -> ShedName {
        let name: ShedName = name.parse().unwrap();
        let new = NewShed {
            name: name.clone(),
            image: None,
            cpus: None,
            memory_mb: None,
            repo: None,
            local_dir: None,
            no_provision: false,
        };
        let _started = self.sheds.create(new, Progress::silent()).await.unwrap();
        name
    }

    async fn status(&self, shed: &ShedName) -> ShedReport {
        timeout(LONG, self.sheds.status(shed)).await.unwrap().expect("the shed is there")
    }

    async fn logs(&self, shed: &ShedName, follow: bool) -> LogStream {
        let query = LogQuery { follow, ..LogQuery::default() };
        timeout(LONG, self.sheds.logs(shed, query)).await.unwrap().unwrap()
    }
}

async fn next(watch: &mut ShedWatch) -> ShedNews {
    timeout(LONG, watch.next()).await.expect("there is news").expect("the shed is there")
}

async fn next_report(watch: &mut ShedWatch) -> ShedReport {
    loop {
        if let ShedNews::Report(report) = next(watch).await {
            return *report;
        }
    }
}

async fn next_event(watch: &mut ShedWatch) -> GuestEvent {
    loop {
        if let ShedNews::Event(event) = next(watch).await {
            return event;
        }
    }
}

fn health(cpu: f64) -> Value {
    json!({ "status": "ok", "started_at": "2026-01-20T10:00:00Z", "metrics": {
        "cpu_percent": cpu, "cpus": 2, "memory_total": 100, "memory_used": 50, "disk_total": 10, "disk_used": 5,
        "load": [0.5, 0.25, 0.0], "uptime_s": 7, "tasks": 9 } })
}

fn failed(unit: &str) -> Value {
    json!({ "event": "unit_failed", "unit": unit, "result": "exit-code", "at": "2026-01-20T10:00:00Z" })
}

fn cpu(report: &ShedReport) -> Option<f64> {
    report.guest.as_ref()?.report.as_ref()?.metrics.as_ref()?.cpu_percent
}

fn units(report: &ShedReport) -> Vec<String> {
    let events = report.guest.as_ref().map(|guest| guest.events.clone()).unwrap_or_default();
    let unit = |event| match event {
        GuestEvent::UnitFailed { unit, .. } => unit,
        GuestEvent::OutOfMemory { .. } | GuestEvent::StepEnded { .. } => panic!("{event:?}"),
    };
    events.into_iter().map(unit).collect()
}

#[tokio::test]
async fn a_status_is_asked_for_and_a_lost_guest_shows_its_last_word() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    host.world.set_health(&shed, health(12.0));
    let report = host.status(&shed).await;
    assert_eq!((report.shed.status, cpu(&report)), (ShedStatus::Running, Some(12.0)));
    let guest = report.guest.unwrap();
    assert!(guest.channel_open && guest.reported_at.is_some());

    host.world.set_health(&shed, health(99.0));
    host.world.set_agent_up(&shed, false);
    let mut lost = None;
    while lost.as_ref().is_none_or(|guest: &shed_lifecycle::GuestState| guest.channel_open) {
        lost = host.status(&shed).await.guest;
    }
    let lost = lost.unwrap();
    assert_eq!(lost.report.unwrap().metrics.unwrap().cpu_percent, Some(12.0));
    assert_eq!(lost.reported_at, guest.reported_at);

    host.world.set_agent_up(&shed, true);
    let mut report = host.status(&shed).await;
    while cpu(&report) != Some(99.0) {
        tokio::task::yield_now().await;
        report = host.status(&shed).await;
    }
    host.sheds.stop(&shed).await.unwrap();
    let report = host.status(&shed).await;
    assert_eq!((report.shed.status, report.guest), (ShedStatus::Stopped, None));
    assert_eq!(host.sheds.status(&"nobody".parse().unwrap()).await, None);
}

#[tokio::test]
async fn a_watcher_is_told_and_makes_the_guest_tell_more_often() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    let mut watch = host.sheds.events(&shed).unwrap();
    assert!(next_report(&mut watch).await.guest.is_some());
    until(|| host.world.health_paces(&shed) == [2000]).await;
    let other = host.sheds.events(&shed).unwrap();
    host.world.tell(&shed, SYSTEM_EVENT, failed("a.service"));
    assert!(
        matches!(next_event(&mut watch).await, GuestEvent::UnitFailed { unit, .. } if unit == "a.service")
    );
    // A new channel has forgotten the pace, and is told it again; the same event is no news.
    host.world.set_agent_up(&shed, false);
    while next_report(&mut watch).await.guest.is_none_or(|guest| guest.channel_open) {}
    host.world.set_agent_up(&shed, true);
    until(|| host.world.health_paces(&shed) == [2000, 2000]).await;
    host.world.tell(&shed, SYSTEM_EVENT, failed("b.service"));
    assert!(
        matches!(next_event(&mut watch).await, GuestEvent::UnitFailed { unit, .. } if unit == "b.service")
    );
    drop((watch, other));
    until(|| host.world.health_paces(&shed) == [2000, 2000, 30_000]).await;
    assert_eq!(units(&host.status(&shed).await), ["a.service", "b.service"]);
}

/// A machine stands still while its host sleeps, and its clock with it: its next report says so.
#[tokio::test]
async fn a_guest_whose_clock_is_wrong_is_told_the_time_and_not_too_often() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    let report = |off: SignedDuration| {
        let mut report = Envelope::event(SYSTEM_HEALTH, &health(1.0));
        report.timestamp = Timestamp::now() + off;
        report
    };
    host.world.say(&shed, report(SignedDuration::ZERO));
    let _fresh = host.status(&shed).await;
    assert_eq!(host.world.told_times(&shed), []);
    let began = (Timestamp::now(), Instant::now());
    for off in [-3600, 3600, -400_000_000, 4] {
        for _ in 0..200 {
            host.world.say(&shed, report(SignedDuration::from_secs(off)));
        }
    }
    until(|| !host.world.told_times(&shed).is_empty()).await;
    let _fresh = host.status(&shed).await;
    let told = host.world.told_times(&shed);
    assert!(told.len() as u64 <= 1 + began.1.elapsed().as_secs() / 10, "{} times", told.len());
    assert!(told.iter().all(|told| (began.0..=Timestamp::now()).contains(told)), "{told:?}");
}

#[tokio::test]
async fn a_watch_goes_on_over_stops_and_starts_and_ends_with_the_shed() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    let mut watch = host.sheds.events(&shed).unwrap();
    host.sheds.stop(&shed).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&ShedStatus::Stopped) {
        if let ShedNews::Shed(view) = next(&mut watch).await {
            seen.push(view.status);
        }
    }
    let _started = host.sheds.start(&shed, Progress::silent()).await.unwrap();
    while next_report(&mut watch).await.guest.is_none() {}
    until(|| host.world.health_paces(&shed).last() == Some(&2000)).await;
    host.world.tell(&shed, SYSTEM_EVENT, failed("after.service"));
    let _event = next_event(&mut watch).await;
    host.sheds.delete(&shed).await.unwrap();
    let end = async { while watch.next().await.is_some() {} };
    timeout(LONG, end).await.expect("the watch ends");
}

#[tokio::test]
async fn what_happened_before_a_server_started_is_known_to_it() {
    let mut host = Host::new().await;
    let shed = host.create("api").await;
    host.world.tell(&shed, SYSTEM_EVENT, failed("old.service"));
    while units(&host.status(&shed).await).is_empty() {}
    host.restart().await;
    // The health report comes before the identity is answered, and the events with it.
    while units(&host.status(&shed).await) != ["old.service"] {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn no_report_or_event_of_a_guest_does_harm() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    let dirty = "\u{1b}[2J\u{7}".repeat(5000);
    for payload in [
        json!(null),
        json!("x"),
        json!([]),
        json!({ "status": "fine" }),
        json!({ "status": "ok", "started_at": "yesterday" }),
        json!({ "status": "ok", "started_at": "2026-01-20T10:00:00Z", "metrics": { "cpus": -1 } }),
        json!({ "status": "ok", "started_at": "2026-01-20T10:00:00Z", "setup": { "occasion": dirty } }),
        json!({ "error": dirty }),
    ] {
        host.world.set_health(&shed, payload.clone());
        let guest = host.status(&shed).await.guest.unwrap();
        assert!(guest.channel_open, "{payload}");
    }
    host.world.set_health(&shed, health(5e9));
    assert_eq!(cpu(&host.status(&shed).await), Some(100.0));

    let mut watch = host.sheds.events(&shed).unwrap();
    for (namespace, payload) in [
        (SYSTEM_EVENT, json!(null)),
        (SYSTEM_EVENT, json!({ "event": "later", "at": "2026-01-20T10:00:00Z" })),
        (SYSTEM_EVENT, json!({ "event": "unit_failed" })),
        (SYSTEM_CREDENTIALS, json!({ "credential": "../x", "files": ["/etc/passwd"] })),
        ("nonsense", json!(dirty)),
        ("", json!({})),
    ] {
        host.world.tell(&shed, namespace, payload);
    }
    // Too long to be looked at.
    host.world.tell(&shed, SYSTEM_EVENT, failed(&format!("first{}", dirty.repeat(2))));
    for number in 0..5000 {
        host.world.tell(&shed, SYSTEM_EVENT, failed(&format!("{number}{dirty}")));
    }
    let event = next_event(&mut watch).await;
    let GuestEvent::UnitFailed { unit, .. } = event else { panic!("{event:?}") };
    assert!(unit.len() <= 256 && !unit.contains(char::is_control), "{unit:?}");
    assert!(!unit.starts_with("first"), "{unit:?}");
    let report = host.status(&shed).await;
    assert!(units(&report).len() <= 20);
}

#[tokio::test]
async fn a_journal_is_read_entry_by_entry_and_its_reader_closed() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    let entry =
        |text: &str| json!({ "at_us": 1, "message": text, "identifier": "x\u{1b}[1m", "priority": 6 });
    host.world.set_logs(&shed, FakeLogs::Entries(vec![entry("one\u{1b}[2J"), entry("two\nlines\u{0}")]));
    let mut logs = host.logs(&shed, false).await;
    let first = logs.next().await.unwrap().unwrap();
    assert_eq!((first.message.as_str(), first.identifier.as_deref()), ("one", Some("x")));
    assert_eq!(logs.next().await.unwrap().unwrap().message, "two\nlines");
    assert_eq!(logs.next().await.unwrap(), None);
    assert_eq!(logs.next().await.unwrap(), None);
    assert_eq!(host.world.log_readers(&shed), 0);

    host.world.set_logs(&shed, FakeLogs::Entries(vec![entry("one")]));
    let query = LogQuery { unit: Some("ssh.service".parse().unwrap()), lines: Some(3), follow: true };
    let mut logs = host.sheds.logs(&shed, query).await.unwrap();
    let asked = host.world.logs_asked(&shed).unwrap();
    assert_eq!((asked.unit.unwrap().as_str(), asked.lines, asked.follow), ("ssh.service", Some(3), true));
    assert_eq!(logs.next().await.unwrap().unwrap().message, "one");
    assert_eq!(host.world.log_readers(&shed), 1);
    drop(logs);
    until(|| host.world.log_readers(&shed) == 0).await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_says_why() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    let query = || LogQuery { unit: Some("a".parse().unwrap()), ..LogQuery::default() };
    let open = async || host.sheds.logs(&shed, query()).await.unwrap_err();
    host.world.set_logs(&shed, FakeLogs::Refuses(LogsRefusal::NoUnit));
    assert!(matches!(open().await, LogsError::NoUnit { unit, .. } if unit == "a"));
    host.world.set_logs(&shed, FakeLogs::Refuses(LogsRefusal::NoJournal));
    assert!(matches!(open().await, LogsError::NoJournal { .. }));
    host.world.set_logs(&shed, FakeLogs::Refuses(LogsRefusal::TooManyReaders));
    assert!(matches!(open().await, LogsError::TooManyReaders { .. }));

    let dirty = "\u{1b}[2J".repeat(10_000);
    for (payload, refused) in [
        (json!({ "error": dirty }), true),
        (json!({ "entries": 5 }), false),
        (json!({ "entries": [{ "at_us": -1 }] }), false),
        (json!("x"), false),
    ] {
        host.world.set_logs(&shed, FakeLogs::Says(payload.clone()));
        let error = host.logs(&shed, false).await.next().await.unwrap_err();
        assert_eq!(matches!(error, LogsError::Failed { .. }), refused, "{payload}: {error}");
        let text = error_chain(&error);
        assert!(text.len() < 1000 && !text.contains(char::is_control), "{text:?}");
    }

    // One that says nothing is waited for, until its machine goes.
    host.world.set_logs(&shed, FakeLogs::Silent);
    let mut logs = host.logs(&shed, true).await;
    let stop = async {
        tokio::task::yield_now().await;
        host.world.crash(&shed);
    };
    let (end, ()) = tokio::join!(timeout(LONG, logs.next()), stop);
    assert!(matches!(end.unwrap().unwrap_err(), LogsError::Away { .. }));
    until(|| host.sheds.get(&shed).unwrap().status == ShedStatus::Stopped).await;
    assert!(matches!(open().await, LogsError::NotRunning { status: ShedStatus::Stopped, .. }));
    let nobody = host.sheds.logs(&"nobody".parse().unwrap(), LogQuery::default()).await;
    assert!(matches!(nobody.unwrap_err(), LogsError::NotFound { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_has_nothing_to_tell_and_does_not_wait_is_not_asked_all_the_time() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    host.world.set_logs(&shed, FakeLogs::Says(json!({ "entries": [], "done": false })));
    let mut logs = host.logs(&shed, true).await;
    let begun = tokio::time::Instant::now();
    // By the paused clock an hour passes at once, unless the wait is busy.
    timeout(Duration::from_secs(3600), logs.next()).await.unwrap_err();
    assert!(begun.elapsed() >= Duration::from_secs(3600));
}

#[tokio::test]
async fn a_console_is_there_for_stopped_sheds_and_ends_with_them() {
    let host = Host::new().await;
    let shed = host.create("api").await;
    host.sheds.stop(&shed).await.unwrap();
    let mut console = host.sheds.console(&shed, Some(1), false).await.unwrap();
    assert_eq!(console.next().await.unwrap().unwrap(), "reboot: Power down");
    assert_eq!(console.next().await.unwrap(), None);
    let mut console = host.sheds.console(&shed, Some(0), true).await.unwrap();
    let _started = host.sheds.start(&shed, Progress::silent()).await.unwrap();
    let line = timeout(LONG, console.next()).await.unwrap().unwrap();
    assert!(line.unwrap().contains("Linux version"));
    host.sheds.delete(&shed).await.unwrap();
    let end = async { while console.next().await.unwrap().is_some() {} };
    timeout(LONG, end).await.expect("it ends with the shed");
    assert!(host.sheds.console(&shed, None, false).await.is_err());
}
