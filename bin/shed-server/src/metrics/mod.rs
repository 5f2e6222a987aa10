//! What the server counts about itself, in Prometheus' text format: `GET /metrics`.
//!
//! One [`Metrics`] a server, handed to whoever has something to count; nothing is global, so that several servers in one
//! process count apart. Labels are few and from closed sets: the route of a request and never its path, no shed's name,
//! no client's word. What depends on the moment (sheds, memory, descriptors) is looked up when it is asked for.

mod process;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::{Method, StatusCode};
use metrics::{
    Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    with_local_recorder,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use shed_api::ShedStatus;
use shed_lifecycle::{Phase, PhaseTiming, PluginOutcome, PullEnd, PullResult, VmmCounts};

/// Route of a request that no path template matches.
pub(crate) const UNMATCHED: &str = "unmatched";

/// Upper bounds of the histograms, in seconds: from an answer out of memory to a boot under software emulation.
const BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Samples that histograms keep one by one before they are added up. Asking for the metrics adds them up, too; this
/// bounds the memory of a server that nobody asks.
const UPKEEP: u64 = 1024;

const REQUESTS: &str = "shed_http_requests_total";
const REQUEST_SECONDS: &str = "shed_http_request_duration_seconds";
const CONNECTIONS: &str = "shed_http_connections";
const SSH_CONNECTIONS: &str = "shed_ssh_connections";
const STREAMS: &str = "shed_streams_open";
const SHEDS: &str = "shed_sheds";
const PHASE_SECONDS: &str = "shed_phase_duration_seconds";
const OPERATIONS: &str = "shed_operations_total";
const PULLS: &str = "shed_image_pulls_total";
const PULL_BYTES: &str = "shed_image_pull_bytes_total";
const PULL_SECONDS: &str = "shed_image_pull_duration_seconds";
const PLUGIN_MESSAGES: &str = "shed_plugin_messages_total";
const VMM_DISK_BYTES: &str = "shed_vmm_disk_bytes_total";
const VMM_NETWORK_BYTES: &str = "shed_vmm_network_bytes_total";
const VMM_FAILURES: &str = "shed_vmm_failures_total";
const BUILD: &str = "shed_build_info";
const MEMORY: &str = "process_resident_memory_bytes";
const DESCRIPTORS: &str = "process_open_fds";
const START_TIME: &str = "process_start_time_seconds";

/// Bytes that go both ways for as long as both ends want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A command in a shed.
    Exec,
    /// A tunnel to a port of a shed.
    Connect,
    /// Files on their way into a shed.
    Files,
    /// A reply of server-sent events.
    Events,
    /// A login shell over SSH.
    SshShell,
    /// A command that an SSH client gave as text.
    SshCommand,
    /// A file transfer over SSH.
    SshSftp,
    /// A command of `shed` over SSH, in frames.
    SshExec,
    /// A connection that an SSH client forwards.
    SshTunnel,
}

impl StreamKind {
    const ALL: [Self; 9] = [
        Self::Exec,
        Self::Connect,
        Self::Files,
        Self::Events,
        Self::SshShell,
        Self::SshCommand,
        Self::SshSftp,
        Self::SshExec,
        Self::SshTunnel,
    ];

    /// Returns the kind as metrics and log name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Connect => "connect",
            Self::Files => "files",
            Self::Events => "events",
            Self::SshShell => "ssh-shell",
            Self::SshCommand => "ssh-command",
            Self::SshSftp => "ssh-sftp",
            Self::SshExec => "ssh-exec",
            Self::SshTunnel => "ssh-tunnel",
        }
    }
}

/// Where an SSH connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshStage {
    /// Not logged in yet.
    Login,
    /// Logged in.
    Open,
}

impl SshStage {
    const ALL: [Self; 2] = [Self::Login, Self::Open];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Open => "open",
        }
    }
}

/// What is done to a shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Start,
    Stop,
    Delete,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Create, Self::Start, Self::Stop, Self::Delete];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ok,
    /// Not begun, because the sheds or the request do not allow it (a reply of 4xx).
    Refused,
    /// Tried in vain (a reply of 5xx).
    Failed,
    /// Its client went away before the end, or the server could not wait for it. A create is undone then, the others go on.
    Cancelled,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Failed, Self::Cancelled];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The counts of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    samples: AtomicU64,
}

impl Metrics {
    /// Begins to count for a server of this version.
    ///
    /// # Panics
    /// Never: the bounds of the buckets are fixed and in order.
    #[must_use]
    pub fn new(version: &str) -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)
            .expect("the list of buckets is not empty")
            .build_recorder();
        let handle = recorder.handle();
        let metrics = Self { inner: Arc::new(Inner { recorder, handle, samples: AtomicU64::new(0) }) };
        metrics.record(|| begin(version));
        metrics
    }

    /// Counts a request that has been answered. For a stream `took` is the time until it began.
    pub fn request(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let (method, route) = (method_label(method), route.to_owned());
        self.record(|| {
            counter!(REQUESTS, "method" => method, "route" => route.clone(), "status" => status.as_str().to_owned())
                .increment(1);
            histogram!(REQUEST_SECONDS, "method" => method, "route" => route).record(took);
        });
        self.upkeep(1);
    }

    /// Counts what was answered without being a request.
    pub fn refused(&self, route: &'static str, status: StatusCode) {
        self.record(|| {
            counter!(REQUESTS, "method" => OTHER_METHOD, "route" => route, "status" => status.as_str().to_owned())
                .increment(1);
        });
    }

    /// Counts an open connection until the result is dropped.
    pub fn connection(&self) -> Open {
        self.open(|| gauge!(CONNECTIONS))
    }

    /// Counts an SSH connection until the result is dropped.
    pub fn ssh_connection(&self, stage: SshStage) -> Open {
        self.open(|| gauge!(SSH_CONNECTIONS, "stage" => stage.as_str()))
    }

    /// Counts an open stream until the result is dropped.
    pub fn stream(&self, kind: StreamKind) -> Open {
        self.open(|| gauge!(STREAMS, "kind" => kind.as_str()))
    }

    /// Counts the end of an operation.
    pub fn operation(&self, operation: Operation, outcome: Outcome) {
        self.record(|| operations(operation, outcome).increment(1));
    }

    /// Counts the phases of a create or start that has come to its end.
    pub fn phases(&self, operation: Operation, timeline: &[PhaseTiming]) {
        self.record(|| {
            for timing in timeline {
                phase_seconds(operation, timing.phase).record(timing.took);
            }
        });
        self.upkeep(timeline.len() as u64);
    }

    /// Counts the end of a pull for a create.
    pub fn pull(&self, end: PullEnd) {
        self.record(|| {
            pulls(end.result).increment(1);
            counter!(PULL_BYTES).increment(end.bytes);
            histogram!(PULL_SECONDS).record(end.took);
        });
        self.upkeep(1);
    }

    /// Counts messages between guests and those who listen to them.
    pub fn plugin_messages(&self, outcome: PluginOutcome, times: u64) {
        self.record(|| counter!(PLUGIN_MESSAGES, "outcome" => outcome.as_str()).increment(times));
    }

    /// Returns everything in the text format, version 0.0.4, given the status of each shed and what their machine monitors
    /// have counted.
    #[must_use]
    pub fn render(&self, sheds: &[ShedStatus], counted: Option<VmmCounts>) -> String {
        self.record(|| {
            if let Some(counted) = counted {
                vmm(counted);
            }
            for status in STATUSES {
                let count = sheds.iter().filter(|shed| **shed == status).count();
                set(&gauge!(SHEDS, "status" => status.as_str()), count as u64);
            }
            if let Some(bytes) = process::resident_bytes() {
                set(&gauge!(MEMORY), bytes);
            }
            if let Some(count) = process::open_descriptors() {
                set(&gauge!(DESCRIPTORS), count);
            }
        });
        self.inner.handle.render()
    }

    fn record<T>(&self, what: impl FnOnce() -> T) -> T {
        with_local_recorder(&self.inner.recorder, what)
    }

    fn open(&self, find: impl FnOnce() -> Gauge) -> Open {
        let gauge = self.record(find);
        gauge.increment(1.0);
        Open(gauge)
    }

    fn upkeep(&self, samples: u64) {
        let before = self.inner.samples.fetch_add(samples, Relaxed);
        if before / UPKEEP != (before + samples) / UPKEEP {
            self.inner.handle.run_upkeep();
        }
    }
}

/// Takes over what machine monitors have counted.
fn vmm(counted: VmmCounts) {
    let VmmCounts {
        disk_read_bytes,
        disk_written_bytes,
        network_received_bytes,
        network_sent_bytes,
        failures,
    } = counted;
    counter!(VMM_DISK_BYTES, "direction" => "read").absolute(disk_read_bytes);
    counter!(VMM_DISK_BYTES, "direction" => "write").absolute(disk_written_bytes);
    counter!(VMM_NETWORK_BYTES, "direction" => "receive").absolute(network_received_bytes);
    counter!(VMM_NETWORK_BYTES, "direction" => "send").absolute(network_sent_bytes);
    counter!(VMM_FAILURES).absolute(failures);
}

/// Something that is open; counted until it is dropped.
#[must_use = "it is counted as long as this is kept"]
pub struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

/// Every status of a shed, so that those that no shed has are told as zero.
const STATUSES: [ShedStatus; 5] =
    [ShedStatus::Running, ShedStatus::Stopped, ShedStatus::Starting, ShedStatus::Stopping, ShedStatus::Error];

/// Says what each metric means, and makes those that begin at zero.
fn begin(version: &str) {
    describe_counter!(REQUESTS, "Requests that have been answered, by the template of their path.");
    describe_histogram!(REQUEST_SECONDS, "Seconds from a request's head to the head of its reply.");
    describe_gauge!(CONNECTIONS, "Open HTTP connections, without those that have become streams.");
    describe_gauge!(SSH_CONNECTIONS, "Open SSH connections, before and after they have logged in.");
    describe_gauge!(STREAMS, "Open streams: commands, tunnels, event streams.");
    describe_gauge!(SHEDS, "Sheds by status.");
    describe_histogram!(PHASE_SECONDS, "Seconds that each phase of a create or start took that succeeded.");
    describe_counter!(OPERATIONS, "Operations on sheds by how they ended.");
    describe_counter!(PULLS, "Images that were got from registries for creates, by how that ended.");
    describe_counter!(PULL_BYTES, "Bytes that came from registries.");
    describe_histogram!(PULL_SECONDS, "Seconds that it took to get an image, conversion included.");
    describe_counter!(
        VMM_DISK_BYTES,
        "Bytes that guests read from and wrote to their disks, as Firecracker counts them."
    );
    describe_counter!(
        VMM_NETWORK_BYTES,
        "Bytes that guests got from and sent to the network, as Firecracker counts them."
    );
    describe_counter!(
        VMM_FAILURES,
        "What guests' disks, network and link could not do, as Firecracker counts it."
    );
    describe_counter!(PLUGIN_MESSAGES, "Messages of guests to listeners and back, by what became of them.");
    describe_gauge!(BUILD, "1, with the server's version.");
    describe_gauge!(MEMORY, "Resident memory of the server in bytes.");
    describe_gauge!(DESCRIPTORS, "Open file descriptors of the server.");
    describe_gauge!(START_TIME, "When the server's process began, in seconds since 1970.");

    gauge!(BUILD, "version" => version.to_owned()).set(1.0);
    if let Some(seconds) = process::start_time() {
        gauge!(START_TIME).set(seconds);
    }
    gauge!(CONNECTIONS).set(0.0);
    for stage in SshStage::ALL {
        gauge!(SSH_CONNECTIONS, "stage" => stage.as_str()).set(0.0);
    }
    for kind in StreamKind::ALL {
        gauge!(STREAMS, "kind" => kind.as_str()).set(0.0);
    }
    for operation in Operation::ALL {
        for outcome in Outcome::ALL {
            operations(operation, outcome).absolute(0);
        }
    }
    for result in PULL_RESULTS {
        pulls(result).absolute(0);
    }
    counter!(PULL_BYTES).absolute(0);
    let _made = histogram!(PULL_SECONDS);
    for phase in Phase::ALL {
        let _made = phase_seconds(Operation::Create, phase);
    }
}

const PULL_RESULTS: [PullResult; 3] = [PullResult::Ok, PullResult::Failed, PullResult::Cancelled];

fn pulls(result: PullResult) -> metrics::Counter {
    let result = match result {
        PullResult::Ok => "ok",
        PullResult::Failed => "failed",
        PullResult::Cancelled => "cancelled",
    };
    counter!(PULLS, "result" => result)
}

fn operations(operation: Operation, outcome: Outcome) -> metrics::Counter {
    counter!(OPERATIONS, "operation" => operation.as_str(), "result" => outcome.as_str())
}

fn phase_seconds(operation: Operation, phase: Phase) -> metrics::Histogram {
    histogram!(PHASE_SECONDS, "operation" => operation.as_str(), "phase" => phase.as_str())
}

/// Sets a gauge to a whole number.
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^53, and the format has only f64")]
fn set(gauge: &Gauge, value: u64) {
    gauge.set(value as f64);
}

/// Stands for every method that is not in the table below: clients may make methods up.
const OTHER_METHOD: &str = "other";

fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, sample: &str) -> Option<f64> {
        let line =
            text.lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
        line.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    #[test]
    fn two_servers_in_one_process_count_apart() {
        let (one, other) = (Metrics::new("1"), Metrics::new("2"));
        one.operation(Operation::Stop, Outcome::Ok);
        let sample = r#"shed_operations_total{operation="stop",result="ok"}"#;
        assert_eq!(value(&one.render(&[], None), sample), Some(1.0));
        assert_eq!(value(&other.render(&[], None), sample), Some(0.0));
    }

    #[test]
    fn open_things_are_counted_until_they_are_dropped() {
        let metrics = Metrics::new("1");
        let sample = r#"shed_streams_open{kind="exec"}"#;
        let (one, two) = (metrics.stream(StreamKind::Exec), metrics.stream(StreamKind::Exec));
        assert_eq!(value(&metrics.render(&[], None), sample), Some(2.0));
        drop(one);
        assert_eq!(value(&metrics.render(&[], None), sample), Some(1.0));
        drop(two);
        assert_eq!(value(&metrics.render(&[], None), sample), Some(0.0));
    }

    #[test]
    fn samples_are_added_up_without_anybody_asking() {
        let metrics = Metrics::new("1");
        for _ in 0..UPKEEP * 3 + 7 {
            metrics.request(&Method::GET, "/api/info", StatusCode::OK, Duration::from_millis(2));
        }
        let text = metrics.render(&[ShedStatus::Running, ShedStatus::Running], None);
        let count = r#"shed_http_request_duration_seconds_count{method="GET",route="/api/info"}"#;
        assert_eq!(value(&text, count), Some(f64::from(3 * 1024 + 7)));
        assert_eq!(value(&text, r#"shed_sheds{status="running"}"#), Some(2.0));
        assert_eq!(value(&text, r#"shed_sheds{status="error"}"#), Some(0.0));
    }

    #[test]
    fn a_method_that_a_client_made_up_is_no_label() {
        assert_eq!(method_label(&Method::GET), "GET");
        assert_eq!(method_label(&Method::from_bytes(b"BREW").unwrap()), "other");
        assert_eq!(method_label(&Method::from_bytes(b"get").unwrap()), "other");
    }
}
