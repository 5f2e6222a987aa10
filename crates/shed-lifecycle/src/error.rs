//! What can go wrong, one type an operation. Display never includes the source; the server's one adapter prints
//! the chain.

use std::{io, sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use shed_backend::{AttachVmError, CheckHostError, ConnectGuestError, EndVmError, StartVmError};
use shed_image::ListImagesError;
use shed_types::{ImageName, ImageReference, ShedName};

use crate::{Activity, LocalDirError, ShedStatus};

/// Why the sheds of a state directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenShedsError {
    #[error("could not prepare {path}")]
    Prepare {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another shed-server uses {path}; stop it, or give this one directories of its own")]
    InUse { path: Utf8PathBuf },
    #[error("could not list {path}")]
    List {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a machine did not come up.
#[derive(Debug, thiserror::Error)]
pub enum BootShedError {
    #[error("shed `{shed}` cannot be on a network")]
    Network {
        shed: ShedName,
        #[source]
        source: shed_backend::LeaseError,
    },
    #[error("could not write the record of shed `{shed}`")]
    Record {
        shed: ShedName,
        #[source]
        source: shed_state::WriteRecordError,
    },
    #[error("could not prepare the disk of shed `{shed}`: {step}")]
    Disk {
        shed: ShedName,
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the host directory {path} of shed `{shed}` cannot be mounted")]
    LocalDir {
        shed: ShedName,
        path: Utf8PathBuf,
        #[source]
        source: LocalDirError,
    },
    #[error("could not start the machine of shed `{shed}`")]
    Start {
        shed: ShedName,
        #[source]
        source: StartVmError,
    },
    #[error("the guest of shed `{shed}` was not ready within {}; {console}", seconds(*.waited))]
    TimedOut { shed: ShedName, waited: Duration, console: String },
    #[error("a processor of shed `{shed}` gets no timer interrupts, so its guest cannot boot; {console}")]
    Stalled { shed: ShedName, console: String },
    #[error("the machine of shed `{shed}` ended while it booted; {console}")]
    Ended { shed: ShedName, console: String },
    #[error("the agent of shed `{shed}` failed: {reason}; {console}")]
    Agent { shed: ShedName, reason: String, console: String },
    #[error("the start of shed `{shed}` was cancelled by a later request")]
    Cancelled { shed: ShedName },
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// Why a shed was not created. Nothing of it is left.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CreateShedError {
    #[error("a shed named `{shed}` already exists; choose another name, or `shed delete {shed}`")]
    AlreadyExists { shed: ShedName },
    #[error(
        "{path} is in the way of a new shed `{shed}`: it is no shed that this server can read; move it away"
    )]
    Occupied { shed: ShedName, path: Utf8PathBuf },
    #[error(
        "there is no image `{image}`; this server has: {}. One in a registry is asked for with its tag, like `{image}:latest`, or its repository, like ghcr.io/owner/{image}", list(.available)
    )]
    UnknownImage { image: ImageName, available: Vec<String> },
    #[error("there is no default image at {path}; build one with `./x image base`, or name one with --image (this server has: {})", list(.available))]
    NoDefaultImage { path: Utf8PathBuf, available: Vec<String> },
    #[error(
        "the server's config says that `{key}` is {path}, and there is no such file; put the image there, or name another one (this server has: {})", list(.available)
    )]
    ImageFileMissing {
        /// Like `images.tools`.
        key: String,
        path: Utf8PathBuf,
        available: Vec<String>,
    },
    #[error(transparent)]
    ImagePath(Arc<ImagePathError>),
    #[error("could not get image `{image}` from {reference}")]
    PullImage {
        image: ImageName,
        reference: Box<ImageReference>,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "image `{image}` was made from {reference} {times} times and is not there: somebody removes or replaces it; try again when that has ended"
    )]
    ImageVanished { image: ImageName, reference: Box<ImageReference>, times: usize },
    #[error("could not find the image")]
    ListImages(#[source] Arc<ListImagesError>),
    #[error("{what} is missing at {path}; build it with `./x build`")]
    GuestFileMissing { what: &'static str, path: Utf8PathBuf },
    #[error("the host directory {path} cannot be mounted in shed `{shed}`")]
    Shares {
        shed: ShedName,
        path: Utf8PathBuf,
        #[source]
        source: Arc<CheckHostError>,
    },
    #[error(transparent)]
    Boot(Arc<BootShedError>),
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why no shed is made from a file that somebody names.
#[derive(Debug, thiserror::Error)]
pub enum ImagePathError {
    #[error("the image {path} cannot be looked at on the server's host")]
    Look {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no regular file; name an ext4 file of the server's host")]
    NotFile { path: Utf8PathBuf },
    #[error(
        "{path} holds no ext4 file system; make one with `shed image build`, or with `mke2fs -t ext4 -d`"
    )]
    NotExt4 { path: Utf8PathBuf },
    #[error(
        "{path} belongs to a shed, which may change it; copy it while that is stopped, and name the copy"
    )]
    OfShed { path: Utf8PathBuf },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Why a shed was not started. It is as stopped as before.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartShedError {
    #[error("there is no shed named `{shed}`")]
    NotFound { shed: ShedName },
    #[error("shed `{shed}` is already running")]
    AlreadyRunning { shed: ShedName },
    #[error("shed `{shed}` is {activity}; try again when that has ended")]
    Busy { shed: ShedName, activity: Activity },
    #[error("shed `{shed}` cannot be started: {reason}")]
    Broken { shed: ShedName, reason: String },
    #[error(transparent)]
    Boot(Arc<BootShedError>),
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a shed was not stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StopShedError {
    #[error("there is no shed named `{shed}`")]
    NotFound { shed: ShedName },
    #[error("shed `{shed}` is already stopped")]
    AlreadyStopped { shed: ShedName },
    #[error("shed `{shed}` is {activity}; try again when that has ended")]
    Busy { shed: ShedName, activity: Activity },
    #[error(transparent)]
    Clear(#[from] ClearVmError),
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a shed was not deleted, or not wholly; deleting it again continues.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeleteShedError {
    #[error("there is no shed named `{shed}`")]
    NotFound { shed: ShedName },
    #[error(transparent)]
    Clear(#[from] ClearVmError),
    #[error("could not remove {path} of shed `{shed}`")]
    Remove {
        shed: ShedName,
        path: Utf8PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a service in the guest cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachGuestError {
    #[error("there is no shed named `{shed}`")]
    NotFound { shed: ShedName },
    #[error("shed `{shed}` is not running (it is {}); start it with `shed start {shed}`", .status.as_str())]
    NotRunning { shed: ShedName, status: ShedStatus },
    #[error("the agent of shed `{shed}` did not answer within {}", seconds(*.waited))]
    NoAnswer { shed: ShedName, waited: Duration },
    #[error("could not reach the agent of shed `{shed}`")]
    Connect {
        shed: ShedName,
        #[source]
        source: ConnectGuestError,
    },
}

impl ShedStatus {
    /// Returns the status in a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Broken => "broken",
        }
    }
}

/// Why it cannot be said that a shed has no machine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClearVmError {
    #[error("could not tell whether a machine of shed `{shed}` still runs")]
    Find {
        shed: ShedName,
        #[source]
        source: Arc<AttachVmError>,
    },
    #[error("the machine of shed `{shed}` could not be ended")]
    End {
        shed: ShedName,
        #[source]
        source: Arc<EndVmError>,
    },
    #[error("sockets of shed `{shed}` could not be removed")]
    Leftovers {
        shed: ShedName,
        #[source]
        source: Arc<io::Error>,
    },
}
