//! A stream into a shed, as the log and the metrics see it: counted while it is open, and one line at its end.
//!
//! Connections that have left HTTP and channels of SSH are such streams.

use std::time::{Duration, Instant};

use shed_link::relay::{Broken, Moved};
use shed_protocol::ExitStatus;
use shed_types::{ShedName, error_chain};

use crate::metrics::{Metrics, Open, StreamKind};

/// A stream into a shed. Dropped without [`OpenStream::ended`], it was cut off.
#[derive(Debug)]
pub(crate) struct OpenStream {
    kind: StreamKind,
    shed: ShedName,
    begun: Instant,
    told: bool,
    _open: Open,
}

impl OpenStream {
    /// Begins to count a stream.
    pub(crate) fn new(metrics: &Metrics, kind: StreamKind, shed: ShedName) -> Self {
        Self { kind, shed, begun: Instant::now(), told: false, _open: metrics.stream(kind) }
    }

    /// Logs how it ended.
    pub(crate) fn ended(mut self, result: &Result<Moved, Broken>) {
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

    /// Logs how the command in it ended, as far as anybody was told.
    pub(crate) fn exited(mut self, moved: Moved, status: Option<&ExitStatus>) {
        self.told = true;
        let (kind, shed, ms) = (self.kind.as_str(), &self.shed, millis(self.begun.elapsed()));
        let Moved { out: to_guest, back: to_client } = moved;
        match status {
            Some(status) => {
                tracing::info!(kind, %shed, to_guest, to_client, exit_code = status.code, %ms, "stream ended");
            }
            None => tracing::info!(kind, %shed, to_guest, to_client, %ms, "stream broke off"),
        }
    }
}

/// Returns a time for the log, in milliseconds with a tenth.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if !self.told {
            let (kind, shed, ms) = (self.kind.as_str(), &self.shed, millis(self.begun.elapsed()));
            tracing::info!(kind, %shed, %ms, "stream cut off");
        }
    }
}
