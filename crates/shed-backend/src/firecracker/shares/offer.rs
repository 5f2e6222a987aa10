//! One directory that is offered to a guest: opened once, served by a process whenever the guest's agent can be reached.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Mode, OFlags};
use shed_types::{GuestPort, ShedName};

use super::record::{ShareRecord, ShareState};
use crate::{
    DiskAccess, Share, VmSpec,
    firecracker::link::GuestLink,
    launch::{self, Launched, Program},
    shares::{Daemons, Marker},
};

/// The subcommand of shed-server that serves a directory, and its options (bin/shed-server/src/serve_share.rs).
const SUBCOMMAND: &str = "serve-share";
const TAG: &str = "--tag";
const DIRECTORY: &str = "--directory";
const RECORD: &str = "--record";
const READ_ONLY: &str = "--read-only";

/// How serving a directory has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// The guest had not mounted it.
    NeverMounted,
    /// It had, and what it has mounted is dead.
    Lost,
}

/// A directory, and what it takes to offer it.
#[derive(Debug)]
pub(in super::super) struct Offer {
    shed: ShedName,
    program: Utf8PathBuf,
    share: Share,
    /// Of the process, in the process table.
    name: String,
    log: Utf8PathBuf,
    record: ShareRecord,
    /// The directory as it was when the machine was started, whatever its path means since.
    directory: Option<OwnedFd>,
}

impl Offer {
    pub(super) fn new(program: &Utf8Path, spec: &VmSpec, share: &Share, marker: &Marker) -> Self {
        Self {
            shed: spec.shed.clone(),
            program: program.to_owned(),
            name: marker.process(share.tag),
            log: spec.vmm_log.clone(),
            record: ShareRecord::beside(&spec.vmm_log, share.tag),
            share: share.clone(),
            directory: None,
        }
    }

    /// Returns the directory's path.
    pub(super) fn source(&self) -> &Utf8Path {
        &self.share.source
    }

    pub(super) fn record(&self) -> &ShareRecord {
        &self.record
    }

    /// Opens the directory, once.
    ///
    /// # Errors
    /// When it is none, or cannot be reached.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.directory.is_none() {
            self.directory = Some(open_directory(&self.share.source)?);
        }
        Ok(())
    }

    /// Serves the directory until the process that does it has ended: one that is there already, or else a new one.
    ///
    /// # Errors
    /// When no process can serve it.
    ///
    /// # Cancel safety
    /// A process that runs goes on.
    pub(super) async fn serve(&mut self, link: &GuestLink) -> io::Result<Served> {
        let there = Daemons::find_named(self.name.clone()).await?;
        if there.is_empty() {
            match self.record.state() {
                ShareState::Mounted => return Ok(Served::Lost),
                ShareState::Offered => self.start(link).await?,
            }
        } else {
            there.all_ended().await;
        }
        Ok(match self.record.state() {
            ShareState::Mounted => Served::Lost,
            ShareState::Offered => Served::NeverMounted,
        })
    }

    /// Starts a process when the guest's agent can be reached, and waits for its end.
    async fn start(&mut self, link: &GuestLink) -> io::Result<()> {
        self.open()?;
        let connected = link.connect(GuestPort::NineP).await.map_err(io::Error::other)?;
        let stream = connected.into_std()?;
        // The process waits in its reads.
        stream.set_nonblocking(false)?;
        let Launched { process, mut exit, output } = self.launch(stream)?;
        tracing::debug!(
            shed = %self.shed, path = %self.share.source, pid = process.id().pid,
            "a host directory is offered to the guest"
        );
        process.dead().await?;
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        if status.is_some_and(|status| !status.success()) {
            tracing::warn!(
                shed = %self.shed, path = %self.share.source, ?status, output = output.tail(),
                "the process that served a host directory has failed"
            );
        }
        Ok(())
    }

    fn launch(&self, stream: UnixStream) -> io::Result<Launched> {
        let directory = self.directory.as_ref().ok_or(io::ErrorKind::NotFound)?.try_clone()?;
        let program = Program {
            name: Some(&self.name),
            args: &arguments(&self.share, directory.as_raw_fd(), &self.record),
            stdin: Some(stream.into()),
            inherited: vec![directory],
            ..Program::new(&self.program, &self.log)
        };
        launch::launch(program)
    }
}

/// Returns the arguments of the process that serves a share, whose directory it has open under this number.
fn arguments(share: &Share, directory: i32, record: &ShareRecord) -> Vec<String> {
    let mut args = vec![
        SUBCOMMAND.to_owned(),
        TAG.to_owned(),
        share.tag.to_owned(),
        DIRECTORY.to_owned(),
        // What is open, and not what may have this path by now.
        format!("/proc/self/fd/{directory}"),
        RECORD.to_owned(),
        record.path().to_string(),
    ];
    match share.access {
        DiskAccess::ReadOnly => args.push(READ_ONLY.to_owned()),
        DiskAccess::ReadWrite => {}
    }
    args
}

/// Opens a directory for whoever serves it; links in its path are followed now and never again.
fn open_directory(path: &Utf8Path) -> io::Result<OwnedFd> {
    let path = path.canonicalize_utf8()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path.as_std_path(), flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line() {
        let record = ShareRecord::beside("/sheds/api/vmm.log".into(), "workspace");
        let share = |access| Share { tag: "workspace", source: "/home/ann/web".into(), access };
        insta::assert_snapshot!(
            arguments(&share(DiskAccess::ReadOnly), 17, &record).join(" "),
            @"serve-share --tag workspace --directory /proc/self/fd/17 --record /sheds/api/vmm.share-workspace --read-only"
        );
        let writable = arguments(&share(DiskAccess::ReadWrite), 17, &record);
        assert!(!writable.contains(&READ_ONLY.to_owned()));
    }

    #[test]
    fn only_a_directory_can_be_opened_and_it_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Utf8Path::from_path(dir.path()).unwrap().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("real")).unwrap();
        std::os::unix::fs::symlink("real", path("link")).unwrap();
        assert_eq!(open_directory(&path("file")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert_eq!(open_directory(&path("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let fd = open_directory(&path("link")).unwrap();
        std::fs::rename(path("real"), path("moved")).unwrap();
        std::os::unix::fs::symlink("/etc", path("real")).unwrap();
        let again = std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(again.ino(), std::fs::metadata(path("moved")).unwrap().ino());
    }
}
