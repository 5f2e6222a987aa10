//! `shed-server serve-share`: serves one host directory to the guest at the other end of its standard input, by 9P.
//!
//! The `firecracker` backend starts it (shed-backend, `firecracker/shares`), and nobody else: it is no part of the command
//! line that people use. It needs no server, reads no configuration and listens nowhere; it ends when the stream ends. The
//! guest is not trusted, so whatever the process may do beyond what the directory's owner may is given up first.

use std::{
    ffi::CStr,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
};

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use rustix::{
    fs::{Gid, Uid},
    io::retry_on_intr,
    net::{RecvFlags, recv},
    process::{Resource, Rlimit, geteuid, getrlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, set_capabilities, set_name, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use shed_backend::firecracker::ShareRecord;
use shed_ninep::{Options, Root};

/// Its name where only short ones are shown.
const NAME: &CStr = c"shed-share";

/// Descriptors that the process may have when root raises its limit: two for each fid that a guest may have, and a
/// thousand for whatever else.
const DESCRIPTORS: u64 = (1 << 17) + 1024;

/// What is served.
#[derive(Debug, Args)]
pub struct ServeShareArgs {
    /// By which the guest knows the directory
    #[arg(long)]
    tag: String,
    /// The directory
    #[arg(long)]
    directory: Utf8PathBuf,
    /// The file that says whether the guest has mounted it
    #[arg(long)]
    record: Utf8PathBuf,
    /// Refuse whatever changes anything
    #[arg(long)]
    read_only: bool,
}

/// Why a directory is not served, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeShareError {
    #[error("cannot look at the directory {path}")]
    Look {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write to {path}")]
    Record {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot give up what the owner of {path} (uid {uid}, gid {gid}) is not allowed")]
    Owner {
        path: Utf8PathBuf,
        uid: u32,
        gid: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot serve the directory {path}")]
    Directory {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the stream to the guest, which is the standard input, cannot be used")]
    Stream(#[source] io::Error),
    #[error("the guest's stream broke")]
    Broken(#[source] io::Error),
}

/// Serves until the stream ends. Only call it before there is another thread: identities are each thread's own.
///
/// # Errors
/// When the directory cannot be served, or the guest breaks the protocol.
pub fn run(args: &ServeShareArgs) -> Result<(), ServeShareError> {
    let ServeShareArgs { tag, directory, record, read_only } = args;
    // Only a name.
    let _unnamed = set_name(NAME);
    raise_limit();
    let failed = |source| ServeShareError::Record { path: record.clone(), source };
    let mounted = ShareRecord::open(record).map_err(failed)?;
    become_owner(directory)?;
    let failed = |source| ServeShareError::Directory { path: directory.clone(), source };
    let root = Root::open(directory.as_std_path()).map_err(failed)?;

    let stdin = || io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let (reader, writer) =
        stdin().and_then(|reader| Ok((reader, stdin()?))).map_err(ServeShareError::Stream)?;
    if !await_guest(&writer, tag).map_err(ServeShareError::Stream)? {
        return Ok(());
    }
    note_mounted(&mounted, record)?;
    // Its pages come back through whatever the guest has open, at offsets that count (docs/adr/0011).
    let options =
        Options { read_only: *read_only, append_at_end: false, uncached: true, ..Options::default() };
    shed_ninep::serve(reader, writer, root, options).map_err(ServeShareError::Broken)
}

/// Says which directory the stream is for, and waits for the guest to ask for something; says whether it did.
fn await_guest(mut stream: &UnixStream, tag: &str) -> io::Result<bool> {
    let told = stream.write_all(format!("{tag}\n").as_bytes());
    let mut first = [0_u8; 1];
    let asked = told.and_then(|()| {
        Ok(retry_on_intr(|| recv(stream, &mut first, RecvFlags::PEEK)).map(|(_, length)| length)?)
    });
    match asked {
        Ok(length) => Ok(length > 0),
        // The guest's agent, or its machine, went away.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// From here on the stream is the guest's kernel's, and another would be of no use to it.
fn note_mounted(file: &File, path: &Utf8Path) -> Result<(), ServeShareError> {
    let failed = |source| ServeShareError::Record { path: path.to_owned(), source };
    ShareRecord::note_mounted(file).map_err(failed)
}

/// Keeps nothing but what the directory's owner may do, when this is root, and no capability in any case.
fn become_owner(directory: &Utf8Path) -> Result<(), ServeShareError> {
    let failed = |source| ServeShareError::Look { path: directory.to_owned(), source };
    let meta = fs::metadata(directory).map_err(failed)?;
    let (uid, gid) = (meta.uid(), meta.gid());
    let give_up = || {
        set_no_new_privs(true)?;
        if geteuid().is_root() {
            set_thread_groups(&[])?;
            let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            set_thread_res_gid(group, group, group)?;
            set_thread_res_uid(user, user, user)?;
        }
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
    };
    let failed = |source: rustix::io::Errno| ServeShareError::Owner {
        path: directory.to_owned(),
        uid,
        gid,
        source: source.into(),
    };
    give_up().map_err(failed)
}

/// Each file that the guest knows costs a descriptor or two.
fn raise_limit() {
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.map_or(DESCRIPTORS, |maximum| maximum.max(DESCRIPTORS));
    let raised = Rlimit { current: Some(most), maximum: Some(most) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        // Only root may raise the upper one.
        let _as_it_is = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now });
    }
}
