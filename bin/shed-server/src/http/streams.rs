//! A connection that has left HTTP, as the log and the metrics see it: counted while it is open, and one line at its end.

use std::time::Instant;

use shed_link::relay::{Broken, Moved};
use shed_types::{ShedName, error_chain};

use super::observe::millis;
use crate::metrics::{Metrics, Open, StreamKind};

/// A stream into a shed. Dropped without [`OpenStream::ended`], it was cut off.
#[derive(Debug)]
pub(super) struct OpenStream {
    kind: StreamKind,
    shed: ShedName,
    begun: Instant,
    told: bool,
    _open: Open,
}

impl OpenStream {
    /// Begins to count a stream.
    pub(super) fn new(metrics: &Metrics, kind: StreamKind, shed: ShedName) -> Self {
        Self { kind, shed, begun: Instant::now(), told: false, _open: metrics.stream(kind) }
    }

    /// Logs how it ended.
    pub(super) fn ended(mut self, result: &Result<Moved, Broken>) {
        self.told = true;
        let (kind, shed, ms) = (self.kind.as_str(), &self.shed, millis(self.begun.elapsed()));
        match result {
            Ok(Moved { out: to_guest, back: to_client }) => {
                tracing::info!(kind, %shed, to_guest, to_client, %ms, "stream ended");
            }
            // No fault of the server's, on either side.
            Err(broken) => tracing::info!(kind, %shed, error = %error_chain(broken), %ms, "stream broke off"),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if !self.told {
            let (kind, shed, ms) = (self.kind.as_str(), &self.shed, millis(self.begun.elapsed()));
            tracing::info!(kind, %shed, %ms, "stream cut off");
        }
    }
}
