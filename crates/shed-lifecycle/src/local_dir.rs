//! A directory of the host as a shed's /workspace: which may be one, and what the machine and its guest are told of it.
//!
//! The HTTP server asks before a create, and every start asks again: the directory belongs to the user, who may have
//! moved it since. Looking blocks, because it may be on a file system that does not answer.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use shed_backend::{DiskAccess, Share};
use shed_protocol::{Mount, MountKind};
use shed_state::ShedRecord;
use shed_types::ShedName;

use crate::Settings;

/// By which the guest finds the directory (spec C.3).
const TAG: &str = "workspace";

/// Where it is mounted (spec E.3).
const TARGET: &str = "/workspace";

/// Why a directory is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum LocalDirError {
    #[error("it is not an absolute path")]
    Relative,
    #[error("it has a comma, which separates options on a VMM's command line")]
    Comma,
    #[error("it does not exist on the server's host")]
    Missing,
    #[error("it is not a directory")]
    NotDirectory,
    #[error("it cannot be read by the user that shed-server runs as")]
    Unreadable(#[source] io::Error),
    #[error(
        "it holds {path}, or lies in it, where shed-server keeps what no guest may see; share a directory beside it"
    )]
    Reserved { path: Utf8PathBuf },
}

/// Checks a directory for [`NewShed::local_dir`](crate::NewShed); looks at the file system.
///
/// # Errors
/// When it cannot be mounted, or must not be.
pub(crate) fn check(settings: &Settings, path: &Utf8Path) -> Result<(), LocalDirError> {
    if !path.is_absolute() {
        return Err(LocalDirError::Relative);
    }
    if path.as_str().contains(',') {
        return Err(LocalDirError::Comma);
    }
    if path.as_str().contains('\0') {
        return Err(LocalDirError::Missing);
    }
    let real = path.canonicalize_utf8().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LocalDirError::Missing,
        io::ErrorKind::NotADirectory => LocalDirError::NotDirectory,
        _ => LocalDirError::Unreadable(error),
    })?;
    if !real.is_dir() {
        return Err(LocalDirError::NotDirectory);
    }
    let own = [&settings.instance_dir, &settings.images_dir];
    for reserved in own.into_iter().chain(&settings.kept_from_guests) {
        // What is not there yet has no other name either.
        let reserved_real = reserved.canonicalize_utf8().unwrap_or_else(|_| reserved.clone());
        if reserved_real.starts_with(&real) || real.starts_with(&reserved_real) {
            return Err(LocalDirError::Reserved { path: reserved.clone() });
        }
    }
    drop(real.read_dir_utf8().map_err(LocalDirError::Unreadable)?);
    Ok(())
}

/// Says what is wrong with a running shed whose directory is served no longer, and what to do.
pub(crate) fn lost(shed: &ShedName) -> String {
    format!(
        "the process that serves the host directory at {TARGET} has ended, and what uses the directory hangs; `shed stop {shed}` and `shed start {shed}` bring it back"
    )
}

/// Returns what a shed's machine shares.
pub(crate) fn shares(record: &ShedRecord) -> Vec<Share> {
    let share =
        |source: &Utf8PathBuf| Share { tag: TAG, source: source.clone(), access: DiskAccess::ReadWrite };
    record.local_dir.iter().map(share).collect()
}

/// Returns what a shed's guest mounts, the way that its backend has.
pub(crate) fn mounts(record: &ShedRecord, kind: MountKind) -> Vec<Mount> {
    let mount = || Mount {
        tag: TAG.to_owned(),
        kind,
        target: TARGET.parse().expect("it is an absolute path"),
        read_only: false,
    };
    record.local_dir.iter().map(|_| mount()).collect()
}
