//! Starts the process that serves one directory, and says hello to it.
//!
//! The server connects to the process's socket before it starts the process, and hands its own end to QEMU later. So the
//! socket has no name that anybody could use, and when the server or QEMU is killed at any point, the last holder of the
//! connection is gone and the process ends by itself.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::Stdio,
    time::Duration,
};

use camino::Utf8Path;
use rustix::{
    fs::{Mode, OFlags},
    io::{FdFlags, fcntl_setfd},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use super::{
    filter::Filter,
    options::{Cage, Ids, Options, arguments},
};

/// Longest wait for the process to be ready. It takes 12 ms on an idle host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks for what the device can do: a message of vhost-user without content (QEMU's documentation, "Vhost-user Protocol":
/// request 1, `VHOST_USER_GET_FEATURES`; flags 1, the version; size 0). Whoever comes later may ask it again.
const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// Length of the answer: the same three words, and 64 bits.
const FEATURES: usize = 12 + 8;

/// Descriptors that a process may have when root raises its limit; as many as virtiofsd itself asks for.
const DESCRIPTORS: u64 = 1_000_000;

/// Why one way to start a process did not work. Nothing runs then.
#[derive(Debug)]
pub(super) enum StartError {
    /// The system does not let us.
    Io(io::Error),
    /// It ended before it was ready; what it printed is in the log.
    Ended,
    /// It said nothing.
    Silent(Duration),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What one process is started with.
#[derive(Debug)]
pub(super) struct Daemon<'a> {
    pub program: &'a Utf8Path,
    /// Its name in the process table.
    pub name: &'a str,
    pub options: Options<'a>,
    /// Where its socket has a name for a moment.
    pub socket: &'a Utf8Path,
    /// Gets what it prints.
    pub log: File,
}

/// Starts the process and returns the connection to it, for QEMU. It serves until that is closed.
pub(super) async fn start(daemon: Daemon<'_>) -> Result<UnixStream, StartError> {
    let (listener, connection) = connected(daemon.socket)?;
    let options = Options { listener_fd: listener.as_raw_fd(), ..daemon.options };
    let program = Program::open(daemon.program, options.cage)?;
    let mut command = Command::new(program.path());
    command
        .args(arguments(&options))
        .arg0(daemon.name)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(daemon.log.try_clone()?)
        .stderr(daemon.log)
        .kill_on_drop(false);
    if let Cage::User(Ids { uid, gid }) = options.cage
        && rustix::process::geteuid().is_root()
    {
        // This also gives up all other groups.
        command.uid(uid).gid(gid);
    }
    let (filter, listening, passed) = (Filter::new(), listener.as_raw_fd(), program.passed());
    // SAFETY: the closures run between fork and exec, make some system calls and allocate nothing; the descriptors are
    // open, because their owners live until the process is started. The first one runs before the user is changed.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            for fd in [Some(listening), passed].into_iter().flatten() {
                fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::empty())?;
            }
            raise_limit();
            filter.apply()
        });
    }
    let mut child = command.spawn()?;
    drop((listener, program));
    match timeout(PATIENCE, greet(connection, &mut child)).await {
        Ok(Ok(connection)) => {
            reap(child);
            Ok(connection)
        }
        failed => {
            // Not reaped yet, so the pid is still its own.
            let _ended_already = child.start_kill();
            reap(child);
            match failed {
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) | Err(_) => Err(StartError::Silent(PATIENCE)),
            }
        }
    }
}

/// A listening socket and a connection to it, which nobody else can find any more.
fn connected(path: &Utf8Path) -> io::Result<(UnixListener, UnixStream)> {
    crate::socket_names::remove(path)?;
    let listener = UnixListener::bind(path)?;
    let connection = UnixStream::connect(path);
    std::fs::remove_file(path)?;
    Ok((listener, connection?))
}

/// Waits for the answer to the first message, or for the end of the process.
async fn greet(connection: UnixStream, child: &mut Child) -> Result<UnixStream, StartError> {
    connection.set_nonblocking(true)?;
    let mut stream = tokio::net::UnixStream::from_std(connection)?;
    let mut answer = [0; FEATURES];
    let asked = async {
        stream.write_all(&GET_FEATURES).await?;
        stream.read_exact(&mut answer).await
    };
    tokio::select! {
        asked = asked => {
            // A process that ends closes the connection, and the reason is in its log.
            asked.map_err(|_| StartError::Ended)?;
        }
        _ended = child.wait() => return Err(StartError::Ended),
    }
    if answer[..4] != GET_FEATURES[..4] {
        return Err(StartError::Ended);
    }
    let connection = stream.into_std()?;
    connection.set_nonblocking(false)?;
    Ok(connection)
}

/// The program as the child names it.
enum Program<'a> {
    Path(&'a Utf8Path),
    /// Opened here, because the child's user may not be let into the directory that it is in (root's ~/.cargo/bin).
    Open(OwnedFd),
}

impl<'a> Program<'a> {
    fn open(path: &'a Utf8Path, cage: Cage) -> io::Result<Self> {
        match cage {
            Cage::User(_) if rustix::process::geteuid().is_root() => Ok(Self::Open(rustix::fs::open(
                path.as_str(),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )?)),
            Cage::User(_) | Cage::Root(_) | Cage::Chroot(_) => Ok(Self::Path(path)),
        }
    }

    fn path(&self) -> String {
        match self {
            Self::Path(path) => path.to_string(),
            Self::Open(fd) => format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()),
        }
    }

    /// A descriptor that the child keeps: a script's interpreter opens it once more.
    fn passed(&self) -> Option<RawFd> {
        match self {
            Self::Path(_) => None,
            Self::Open(fd) => Some(fd.as_raw_fd()),
        }
    }
}

/// Each file that the guest knows costs the process a descriptor, so it gets as many as may be.
fn raise_limit() {
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(DESCRIPTORS).max(DESCRIPTORS);
    let raised = Rlimit { current: Some(most), maximum: Some(most) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        // Only root may raise the upper one.
        let _as_it_is = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now });
    }
}

/// Returns how many descriptors a process may have, when that is fewer than a large source tree has files.
pub(super) fn few_descriptors() -> Option<u64> {
    /// A tree with its dependencies has some ten thousand files.
    const ENOUGH: u64 = 100_000;
    getrlimit(Resource::Nofile).maximum.filter(|most| *most < ENOUGH)
}

/// Takes the exit status of a child when it ends, whoever else watches it.
fn reap(mut child: Child) {
    tokio::spawn(async move {
        match child.wait().await {
            Ok(status) => tracing::debug!(%status, "a process that served a directory has ended"),
            Err(error) => tracing::warn!(%error, "a process that served a directory could not be reaped"),
        }
    });
}
