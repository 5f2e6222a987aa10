//! How a shed and its guest are: once ([`Sheds::status`]), or as it changes ([`Sheds::events`]).
//!
//! What the guest says of itself was made fit to be shown where it came in; nothing here waits for a guest for long.

use std::time::Duration;

use jiff::Timestamp;
use shed_protocol::{GuestEvent, HealthReport, HealthRequest, SYSTEM_HEALTH};
use shed_types::ShedName;
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep_until},
};

use crate::{
    ShedStatus, ShedView, Sheds,
    channel::Health,
    driver::Handle,
    guest_channel::{GuestChannel, Watching},
};

/// How long a guest is waited for that is asked how it is. Its last word is shown after that, with its time.
const FRESH: Duration = Duration::from_secs(2);

/// How many events of the past a status has.
const EVENTS: usize = 20;

/// Shortest time between two reports to one watcher, however often the guest tells.
const SPACING: Duration = Duration::from_millis(500);

/// How a shed is.
#[derive(Debug, Clone, PartialEq)]
pub struct ShedReport {
    /// The shed.
    pub shed: ShedView,
    /// Its guest; only while it runs.
    pub guest: Option<GuestState>,
}

/// How a running guest is.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestState {
    /// Whether the message channel is open. While it is not, the report is an old one.
    pub channel_open: bool,
    /// The last report, if there was one yet.
    pub report: Option<HealthReport>,
    /// When it came.
    pub reported_at: Option<Timestamp>,
    /// What happened of late, the oldest first.
    pub events: Vec<GuestEvent>,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq)]
pub enum ShedNews {
    /// How it is now; the first news, and whenever the guest has reported or its channel was lost or found.
    Report(Box<ShedReport>),
    /// The shed itself has changed, its status for one.
    Shed(Box<ShedView>),
    /// Something has happened in the guest.
    Event(GuestEvent),
}

impl Sheds {
    /// Returns how a shed is. A running guest is asked, for two seconds at most; otherwise its last word counts. Returns
    /// nothing when there is no such shed.
    pub async fn status(&self, name: &ShedName) -> Option<ShedReport> {
        let handle = self.handle(name)?;
        let guest = handle.guest.borrow().clone();
        if let Some(channel) = guest.filter(|channel| *channel.open().borrow()) {
            // The channel notes the report; without one in time the last one is shown.
            let asked = HealthRequest::default();
            let answer = channel.request::<_, serde_json::Value>(SYSTEM_HEALTH, &asked, FRESH).await;
            if let Err(error) = answer {
                tracing::debug!(shed = %name, %error, "the guest did not say how it is");
            }
        }
        let mut report = report(&handle);
        report.shed.warnings.extend(self.credential_reports(name));
        Some(report)
    }

    /// Watches a shed from now on. While somebody does, its guest reports every other second. Returns nothing when there
    /// is no such shed.
    #[must_use]
    pub fn events(&self, name: &ShedName) -> Option<ShedWatch> {
        Some(ShedWatch::new(self.handle(name)?))
    }
}

fn report(handle: &Handle) -> ShedReport {
    let shed = handle.snapshot();
    let channel = handle.guest.borrow().clone();
    let guest = channel.filter(|_| shed.status == ShedStatus::Running).map(|channel| {
        let health = handle.health.borrow().clone();
        let mut events = channel.recent_events();
        events.drain(..events.len().saturating_sub(EVENTS));
        let channel_open = *channel.open().borrow();
        GuestState { channel_open, report: health.report, reported_at: health.last_healthy, events }
    });
    ShedReport { shed, guest }
}

/// News of a shed, as they come. Dropping it ends the watch.
#[derive(Debug)]
pub struct ShedWatch {
    handle: Handle,
    guest: Option<Guest>,
    /// The shed as it was told last.
    told: ShedView,
    /// When the next report may be told, if one is due.
    due: Option<Instant>,
    last: Option<Instant>,
}

/// The machine that is watched, while there is one.
#[derive(Debug)]
struct Guest {
    events: broadcast::Receiver<GuestEvent>,
    open: watch::Receiver<bool>,
    _watching: Watching,
}

impl Guest {
    fn of(channel: &GuestChannel) -> Self {
        Self { events: channel.guest_events(), open: channel.open(), _watching: channel.watching() }
    }
}

/// What wakes a watcher.
enum Wake {
    Shed,
    Machine,
    Health,
    Open,
    Event(GuestEvent),
    Due,
    Gone,
}

impl ShedWatch {
    fn new(mut handle: Handle) -> Self {
        let guest = handle.guest.borrow_and_update().as_ref().map(Guest::of);
        let told = comparable(handle.view.borrow_and_update().clone());
        Self { handle, guest, told, due: Some(Instant::now()), last: None }
    }

    /// Waits for news; nothing when the shed is gone or the server ends.
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped; a report may be told later.
    pub async fn next(&mut self) -> Option<ShedNews> {
        loop {
            match self.wake().await {
                Wake::Gone => return None,
                Wake::Shed => {
                    let view = comparable(self.handle.view.borrow().clone());
                    // The driver publishes whatever it did; not all of it changes what can be seen.
                    if view != self.told {
                        self.told = view;
                        return Some(ShedNews::Shed(Box::new(self.handle.snapshot())));
                    }
                }
                Wake::Machine => {
                    self.guest = self.handle.guest.borrow().as_ref().map(Guest::of);
                    self.ask_for_report();
                }
                Wake::Health | Wake::Open => self.ask_for_report(),
                Wake::Event(event) => return Some(ShedNews::Event(event)),
                Wake::Due => {
                    self.due = None;
                    self.last = Some(Instant::now());
                    return Some(ShedNews::Report(Box::new(report(&self.handle))));
                }
            }
        }
    }

    fn ask_for_report(&mut self) {
        let now = Instant::now();
        let _known = self.due.get_or_insert_with(|| self.last.map_or(now, |last| now.max(last + SPACING)));
    }

    async fn wake(&mut self) -> Wake {
        let Handle { view, guest, health, .. } = &mut self.handle;
        let due = self.due;
        tokio::select! {
            // In this order a stop is told before what it does to the guest.
            biased;
            changed = view.changed() => if changed.is_ok() { Wake::Shed } else { Wake::Gone },
            changed = guest.changed() => if changed.is_ok() { Wake::Machine } else { Wake::Gone },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Wake::Due,
            wake = of_guest(&mut self.guest) => wake,
            changed = health.changed() => if changed.is_ok() { Wake::Health } else { Wake::Gone },
        }
    }
}

/// Waits for what a guest's channel tells; for ever without one.
async fn of_guest(guest: &mut Option<Guest>) -> Wake {
    let Some(Guest { events, open, .. }) = guest else { return std::future::pending().await };
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => return Wake::Event(event),
                // What was missed is in the next report.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                // The machine has gone, which the driver tells.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            },
            Ok(()) = open.changed() => return Wake::Open,
        }
    }
}

/// Leaves out what changes with each report of health.
fn comparable(view: ShedView) -> ShedView {
    ShedView { last_healthy: None, agent_started_at: None, ..view }
}

impl Handle {
    /// Returns the shed as it looks from outside at this moment.
    pub(crate) fn snapshot(&self) -> ShedView {
        let mut view = self.view.borrow().clone();
        if view.status == ShedStatus::Running {
            let Health { last_healthy, agent_started_at, report, clock_off: _ } = &*self.health.borrow();
            view.last_healthy = *last_healthy;
            view.agent_started_at = *agent_started_at;
            view.extensions = report.as_ref().map(|report| report.extensions.clone()).unwrap_or_default();
        }
        view
    }
}
