//! The state directory is an interface: every file name in it, and how files in it are written.
//!
//! `shed-lifecycle` keeps the records of sheds through this crate; the CLI keeps its own files with the same
//! [`atomic`] writes. Nothing here knows a VMM or decides what a record should say.
//!
//! A file is written whole: to a temporary file in the same directory, synced, renamed over the old one, and the
//! directory synced. A reader therefore sees the old content or the new, whatever is killed and whenever.

pub mod atomic;
mod instances;
mod lock;
mod record;

pub use atomic::WriteFileError;
pub use instances::{
    CONSOLE_LOG, Entry, InstanceDir, InstanceFiles, ReadInstanceError, ScanError, WriteRecordError,
    remove_shed_files,
};
pub use lock::{DirectoryLock, LockError};
pub use record::{PlannedSetup, RECORD_VERSION, RecordStatus, ShedRecord, VmRecord};
