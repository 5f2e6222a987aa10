//! Gives open ports to a process that outlives the terminal, and takes them there.
//!
//! `tunnels start -d` opens the ports, starts this program anew as `shed tunnels daemon NAME`, and sends it, over a
//! socket that is its stdin, what to do and the ports themselves. The new process leaves the session of its terminal,
//! takes its place in the state file, and answers; only then the parent ends. Nothing is forked: this program may have
//! threads, and a copy of it would not.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::{
    io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize};
use shed_types::ShedName;

use super::{doors::Door, journal::Log, mapping::Mapping, state::Entry};
use crate::config::ServerName;

/// Ports that are sent at once; the system takes 253 (unix(7), `SCM_MAX_FD`).
const AT_ONCE: usize = 64;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// How long the new process may take to begin: to read its files, and to end the tunnels that it replaces, which takes up
/// to 15 seconds. It asks no server.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the new process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Where the shed is; a name that the config file has.
    pub(crate) server: ServerName,
    /// Which profiles the ports are from.
    pub(crate) profile: String,
    /// All ports, and where they lead; those that are sent come in this order.
    pub(crate) ports: Vec<Mapping>,
    /// Those of them that are not sent, because the tunnels that are replaced still have them.
    pub(crate) later: Vec<Mapping>,
    /// The tunnels that are replaced. The new process ends them, when all else is there.
    pub(crate) replaced: Option<Entry>,
    /// Where it writes what happens.
    pub(crate) log: Utf8PathBuf,
}

/// What the new process says when it has begun, or why it has not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ready,
    Failed(String),
}

/// Why the new process does not forward anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandOverError {
    #[error("could not open the log {path}")]
    Log {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not start a process for the tunnels")]
    Start(#[source] io::Error),
    #[error("could not give the ports to the process of the tunnels")]
    Send(#[source] io::Error),
    #[error("the process of the tunnels ended before it was ready")]
    Died,
    #[error("the process of the tunnels did not say within {} seconds whether it was ready, and was ended", .0.as_secs())]
    Silent(Duration),
    #[error("{0}")]
    Failed(String),
}

/// A process that was started and has not answered yet.
#[derive(Debug)]
pub(crate) struct Starting {
    child: Child,
    line: UnixStream,
}

/// Starts the process and gives it the ports.
///
/// # Errors
/// When the system refuses.
pub(crate) fn start(
    shed: &ShedName,
    task: &Task,
    doors: &[Door],
    config: &Utf8Path,
) -> Result<Starting, HandOverError> {
    let log = Log::open(&task.log).and_then(|log| Ok((log.file()?, log.file()?)));
    let (out, err) = log.map_err(|source| HandOverError::Log { path: task.log.clone(), source })?;
    let start = || -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        keep_to_ourselves();
        let child = Command::new(std::env::current_exe()?)
            .args(["--config", config.as_str(), "tunnels", "daemon", shed.as_str()])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(err))
            .current_dir("/")
            .spawn()?;
        Ok((child, ours))
    };
    let (mut child, mut line) = start().map_err(HandOverError::Start)?;
    let sent = line.set_write_timeout(Some(PATIENCE)).and_then(|()| send(&mut line, task, doors));
    // A process that ends at once says why in its answer, or in its log.
    if let Err(error) = sent
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let error = HandOverError::Send(error);
        end(&mut child, &error);
        return Err(error);
    }
    Ok(Starting { child, line })
}

impl Starting {
    /// Waits for the answer, and returns the process's id.
    ///
    /// # Errors
    /// When it has not begun, with its reason; it has ended then.
    pub(crate) fn wait(self) -> Result<u32, HandOverError> {
        self.wait_for(PATIENCE)
    }

    fn wait_for(mut self, patience: Duration) -> Result<u32, HandOverError> {
        let answer = read_answer(&self.line, Instant::now() + patience);
        let error = match answer.map(|text| serde_json::from_slice(&text).ok()) {
            Ok(Some(Answer::Ready)) => return Ok(self.child.id()),
            Ok(Some(Answer::Failed(why))) => HandOverError::Failed(why),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => HandOverError::Silent(patience),
            Ok(None) | Err(_) => HandOverError::Died,
        };
        end(&mut self.child, &error);
        Err(error)
    }
}

/// Sees a process off that is of no use.
fn end(child: &mut Child, error: &HandOverError) {
    match error {
        // It ends by itself, and may be writing why into its log.
        HandOverError::Failed(_) => {}
        HandOverError::Died
        | HandOverError::Silent(_)
        | HandOverError::Send(_)
        | HandOverError::Start(_)
        | HandOverError::Log { .. } => {
            let _ended_already = child.kill();
        }
    }
    let _ended = child.wait();
}

/// Reads a line, or to the end.
fn read_answer(mut line: &UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut some = [0; 1024];
    while !text.ends_with(b"\n") && text.len() < MAX_ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        line.set_read_timeout(Some(left))?;
        match line.read(&mut some) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&some[..length]),
            // The time is looked at above: a socket says in this way that its own is over.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

/// Reads the command line that [`start`] gives to the process: the config file and the shed. It is no command that a
/// person could give, and so neither in the help nor among what a shell completes; but the state file knows the process
/// by it, and so does whoever looks at the process table.
pub(crate) fn asked_for(arguments: &[OsString]) -> Option<(Utf8PathBuf, ShedName)> {
    let words: Vec<&str> = arguments.iter().skip(1).map(|word| word.to_str()).collect::<Option<_>>()?;
    match words.as_slice() {
        ["--config", config, "tunnels", "daemon", shed] => Some(((*config).into(), shed.parse().ok()?)),
        _ => None,
    }
}

/// Keeps descriptors that were handed down to this process, a lock or a pipe of whoever started it, from the process that
/// outlives it. Our own are never handed down.
fn keep_to_ourselves() {
    // /dev/fd is the same on macOS and on Linux, where it leads to /proc/self/fd.
    let Ok(entries) = std::fs::read_dir("/dev/fd") else { return };
    let numbers: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|n| *n > 2)
        .collect();
    for number in numbers {
        // SAFETY: the number is used for two calls that only look at and set a flag of whatever is open under it; one that
        // was closed meanwhile, as that of the listing itself, is refused by the system.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let _closed = fcntl_getfd(fd).and_then(|flags| fcntl_setfd(fd, flags | FdFlags::CLOEXEC));
    }
}

fn send(line: &mut UnixStream, task: &Task, doors: &[Door]) -> io::Result<()> {
    for some in doors.chunks(AT_ONCE) {
        let fds: Vec<BorrowedFd<'_>> = some.iter().map(|door| door.listener.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        // A message of descriptors has at least a byte of data.
        sendmsg(&*line, &[IoSlice::new(b"p")], &mut control, SendFlags::empty())?;
    }
    let mut text = serde_json::to_vec(task).expect("a task is plain JSON");
    text.push(b'\n');
    line.write_all(b"\n").and_then(|()| line.write_all(&text))
}

/// The end of the socket in the new process.
#[derive(Debug)]
pub(crate) struct Line(UnixStream);

/// Takes over what [`start`] has sent on stdin, and leaves stdin empty.
///
/// # Errors
/// When stdin is not such a socket, or what comes is no task.
pub(crate) fn receive() -> io::Result<(Task, Vec<Door>, Line)> {
    let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut listeners = Vec::new();
    // Byte by byte, because what is read in one go with the task would lose its descriptors.
    while let (b'p', fds) = receive_byte(&line)? {
        listeners.extend(fds.into_iter().map(TcpListener::from));
    }
    let mut text = String::new();
    BufReader::new(&line).read_line(&mut text)?;
    let task: Task = serde_json::from_str(&text)?;
    let sent: Vec<Mapping> =
        task.ports.iter().filter(|mapping| !task.later.contains(mapping)).copied().collect();
    if sent.len() != listeners.len() {
        return Err(io::Error::other(format!("{} ports came for {}", listeners.len(), sent.len())));
    }
    let doors = sent.into_iter().zip(listeners).map(|(mapping, listener)| Door { mapping, listener });
    let doors = doors.collect();
    Ok((task, doors, Line(line)))
}

fn receive_byte(line: &UnixStream) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(line, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    Ok((byte[0], fds))
}

impl Line {
    /// Says that the tunnels are there.
    ///
    /// # Errors
    /// When whoever started this process has gone: an answer that nobody waits for is a start that was given up.
    pub(crate) fn ready(self) -> io::Result<()> {
        self.answer(&Answer::Ready)
    }

    /// Says why they are not.
    pub(crate) fn failed(self, why: String) {
        let _gone = self.answer(&Answer::Failed(why));
    }

    fn answer(mut self, answer: &Answer) -> io::Result<()> {
        let mut text = serde_json::to_vec(answer).expect("an answer is plain JSON");
        text.push(b'\n');
        self.0.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that would live on, and the other end of its line.
    fn starting() -> (Starting, UnixStream) {
        let (line, theirs) = UnixStream::pair().unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        (Starting { child, line }, theirs)
    }

    #[test]
    fn a_process_that_says_nothing_or_only_half_of_it_is_ended() {
        for said in ["", "\"rea"] {
            let (starting, mut theirs) = starting();
            theirs.write_all(said.as_bytes()).unwrap();
            let pid = starting.child.id();
            let error = starting.wait_for(Duration::from_millis(50)).unwrap_err();
            assert!(matches!(error, HandOverError::Silent(_)), "{error:?}");
            assert_eq!(shed_process::ProcessId::of_any(pid).unwrap(), None, "killed and waited for");
        }
    }

    #[test]
    fn an_answer_is_taken_in_pieces_and_its_process_lives() {
        let (starting, mut theirs) = starting();
        let pid = starting.child.id();
        let pieces = std::thread::spawn(move || {
            for piece in ["\"re", "ady\"", "\n"] {
                theirs.write_all(piece.as_bytes()).unwrap();
            }
            theirs
        });
        assert_eq!(starting.wait().unwrap(), pid);
        pieces.join().unwrap();
        let id = shed_process::ProcessId::of(pid).unwrap().expect("it lives");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(id.pid.try_into().unwrap()).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    }
}
