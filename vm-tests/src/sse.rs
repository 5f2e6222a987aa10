//! Server-sent events as they come.

use std::{
    io::{self, BufRead, BufReader},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::http::{Reply, Response, header};

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// `progress`, `complete` or `error` of a create or start.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// The events of a create or start, of a shed, or of its logs.
#[derive(Debug)]
pub struct EventStream {
    reader: BufReader<Response>,
}

impl EventStream {
    #[track_caller]
    pub(crate) fn new(response: Response) -> Self {
        if response.status() != 200 {
            let reply: Reply = response.read().expect("a whole response");
            panic!("no stream of events: {} {}", reply.status, reply.text());
        }
        assert_eq!(header(response.head(), "content-type"), Some("text/event-stream"));
        Self { reader: BufReader::new(response) }
    }

    /// Waits for the next event; returns nothing at the end of the stream.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn try_next(&mut self) -> io::Result<Option<Event>> {
        let (mut name, mut data) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            match line.trim_end_matches(['\r', '\n']) {
                "" if name.is_empty() && data.is_empty() => {}
                "" => {
                    let data = serde_json::from_str(&data).map_err(io::Error::other)?;
                    return Ok(Some(Event { name, data }));
                }
                line => match line.split_once(':').unwrap_or((line, "")) {
                    ("event", value) => value.trim().clone_into(&mut name),
                    ("data", value) => data.push_str(value.trim_start()),
                    _ => {}
                },
            }
        }
    }

    /// Waits for the first event that `wanted` makes something of.
    ///
    /// # Panics
    /// When the stream ends before, or does not bring it within `deadline`.
    #[track_caller]
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> T {
        let begun = Instant::now();
        loop {
            let event = match self.try_next() {
                Ok(Some(event)) => event,
                end => panic!("the events ended before {what}: {end:?}"),
            };
            if let Some(found) = wanted(&event) {
                return found;
            }
            assert!(begun.elapsed() < deadline, "no {what} within {deadline:?}; last: {event:?}");
        }
    }

    /// Waits until the phase begins.
    ///
    /// # Panics
    /// When the stream ends before, or ends the work.
    #[track_caller]
    pub fn wait_for_phase(&mut self, phase: &str) {
        loop {
            match self.try_next() {
                Ok(Some(event)) if event.name == "progress" => {
                    if event.data["phase"] == phase {
                        return;
                    }
                }
                other => panic!("the phase `{phase}` was not announced, but: {other:?}"),
            }
        }
    }

    /// Reads to the end; returns every event.
    ///
    /// # Panics
    /// When the stream breaks.
    #[track_caller]
    #[must_use]
    pub fn all(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.try_next().expect("the stream of events ends properly") {
            events.push(event);
        }
        events
    }
}
