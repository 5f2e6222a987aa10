//! What happens to a shed, from create to delete.
//!
//! [`Sheds`] is the only door: the HTTP and SSH servers hold one and call it. Behind it each shed has a task of its
//! own ([`driver`]) that owns the shed's record and machine; requests reach it through a queue and are accepted,
//! joined or refused by one pure policy ([`policy`]). This crate knows no HTTP, no SSH and no concrete backend.
//!
//! Everything here may be killed at any moment. What is about to be taken is recorded first, so that the next
//! start ([`reconcile`]) finds it and either finishes or undoes it.

mod asked_image;
mod boot;
mod bring_up;
mod bus;
mod channel;
mod clean;
mod console;
mod console_log;
mod context;
mod credentials;
mod dial;
mod disk;
mod driver;
mod env_file;
mod error;
mod files;
mod guest_channel;
mod guest_command;
mod guest_events;
mod guest_text;
mod image_blobs;
mod image_choice;
mod image_make;
mod image_news;
mod image_policy;
mod images;
mod known_hosts;
mod leases;
mod local_dir;
mod log_cut;
mod logs;
mod pids;
mod policy;
mod progress;
mod prune;
mod pulls;
mod reconcile;
mod run_config;
mod sessions;
mod settings;
mod settle;
mod setup;
mod sheds;
mod shutdown;
mod space;
mod status;
mod tmux;
mod usage;
mod view;

pub use asked_image::{AskedImage, AskedImageError};
pub use bus::{BusSettings, ListenError, Listening, PluginOutcome, PluginResponse, RespondError};
pub use console_log::{ConsoleError, ConsoleLines};
pub use credentials::Credential;
pub use dial::DialGuestError;
pub use error::{
    BootShedError, ClearVmError, CreateShedError, DeleteShedError, ImagePathError, OpenShedsError,
    ReachGuestError, StartShedError, StopShedError,
};
pub use files::{FilesPut, PutFilesError};
pub use guest_command::GuestCommandError;
pub use image_blobs::BlobPrune;
pub use image_choice::{DefaultImage, default_image};
pub use image_make::{FetchFailed, FetchImage, Made, make_image};
pub use image_news::tell as tell_image_progress;
pub use images::{
    DeleteImageError, ImagePrune, KeptImage, KnownImage, ListKnownImagesError, PruneImagesError, PrunedImage,
};
pub use local_dir::LocalDirError;
pub use logs::{LogQuery, LogStream, LogsError};
pub use policy::Activity;
pub use progress::{Phase, PhaseTiming, Progress, ProgressUpdate, Updates};
pub use prune::{
    PruneError, PruneOutcome, PruneReason, PruneRequest, PruneScope, PruneSubject, Pruned, SkipReason,
    Skipped,
};
pub use pulls::{PullEnd, PullResult};
pub use sessions::{AllSessions, KillSessionError, ListSessionsError, TmuxError};
pub use settings::Settings;
pub use shed_backend::VmmCounts;
pub use sheds::Sheds;
pub use space::Space;
pub use status::{GuestState, ShedNews, ShedReport, ShedWatch};
pub use tmux::{ParseSessionsError, TmuxSession};
pub use usage::{FileRole, FileUsage, ImageUsage, ShedUsage, Usage};
pub use view::{NewShed, ShedStatus, ShedView, Started, Stopped};
