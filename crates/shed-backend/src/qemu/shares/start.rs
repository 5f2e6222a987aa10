//! Starts what serves the directories of a machine that is about to be started.

use std::{fs, io, os::unix::fs::MetadataExt, os::unix::net::UnixStream};

use camino::{Utf8Path, Utf8PathBuf};

use super::{
    Shares,
    daemon::{self, Daemon, StartError},
    options::{self, Cage, Ids, Options},
};
use crate::{
    Share, StartVmError, VmSpec, launch,
    shares::{Daemons, Marker},
};

/// Starts one process a share and returns the connections to them, in the order of the shares.
///
/// # Errors
/// When one cannot be started. Then none of them is left.
///
/// # Cancel safety
/// Processes end when the connections to them are dropped, which they are with the future.
pub(in super::super) async fn start(
    shares: &Shares,
    spec: &VmSpec,
    socket_dir: &Utf8Path,
) -> Result<Vec<UnixStream>, StartVmError> {
    if spec.shares.is_empty() {
        return Ok(Vec::new());
    }
    let program = shares.program().await?;
    let marker = Marker::of_shed(socket_dir, &spec.shed).of_launch(spec.launch_id);
    let mut connections = Vec::new();
    for share in &spec.shares {
        match start_one(shares, program, spec, share, &marker, socket_dir).await {
            Ok(connection) => connections.push(connection),
            Err(error) => {
                drop(connections);
                if let Ok(started) = Daemons::find(marker).await {
                    started.kill().await;
                }
                return Err(error);
            }
        }
    }
    Ok(connections)
}

async fn start_one(
    shares: &Shares,
    program: &Utf8Path,
    spec: &VmSpec,
    share: &Share,
    marker: &Marker,
    socket_dir: &Utf8Path,
) -> Result<UnixStream, StartVmError> {
    let shed = &spec.shed;
    let bad = |source| StartVmError::Share { shed: shed.clone(), path: share.source.clone(), source };
    let (source, owner) = look_at(share.source.clone()).await.map_err(bad)?;
    let server = Ids { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let prepare = |source| StartVmError::Prepare { shed: shed.clone(), path: spec.vmm_log.clone(), source };
    let mut reasons = Vec::new();
    for cage in Cage::choices(server, owner) {
        let log = launch::open_log(&spec.vmm_log).map_err(prepare)?;
        let output = launch::Output::begins_now(&log, &spec.vmm_log).map_err(prepare)?;
        let daemon = Daemon {
            program,
            name: &marker.process(share.tag),
            options: Options {
                source: &source,
                access: share.access,
                cage,
                cache: shares.cache,
                listener_fd: -1,
            },
            socket: &options::socket_path(socket_dir, shed),
            log,
        };
        match daemon::start(daemon).await {
            Ok(connection) => {
                match reasons.is_empty() {
                    true => {
                        tracing::debug!(%shed, %source, cage = cage.as_str(), "virtiofsd serves a directory");
                    }
                    false => tracing::warn!(
                        %shed, %source, cage = cage.as_str(), reasons = reasons.join("; "),
                        "virtiofsd is confined less than it could be"
                    ),
                }
                if let Some(descriptors) = daemon::few_descriptors() {
                    tracing::info!(%shed, descriptors, "the hard limit of open files may be too low for a large directory; LimitNOFILE raises it");
                }
                return Ok(connection);
            }
            Err(StartError::Io(error)) => reasons.push(format!("{}: {error}", cage.as_str())),
            Err(StartError::Ended) => reasons.push(format!("{}: {}", cage.as_str(), output.tail())),
            Err(StartError::Silent(waited)) => {
                reasons.push(format!("{}: no answer within {waited:?}", cage.as_str()));
            }
        }
    }
    Err(StartVmError::ServeShare {
        shed: shed.clone(),
        path: share.source.clone(),
        program: program.to_string(),
        reasons: reasons.join("; "),
    })
}

/// Returns the directory without symbolic links, and whose it is.
async fn look_at(path: Utf8PathBuf) -> io::Result<(Utf8PathBuf, Ids)> {
    let look = move || {
        let path = path.canonicalize_utf8()?;
        let meta = fs::metadata(&path)?;
        if !meta.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok((path, Ids { uid: meta.uid(), gid: meta.gid() }))
    };
    tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
}
