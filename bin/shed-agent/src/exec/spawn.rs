//! Starts the process of a plan, with a terminal or with three pipes.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Stdio,
    time::Duration,
};

use rustix::{
    fs::{Gid, Mode, OFlags, Uid},
    pipe::fcntl_setpipe_size,
    process::{Pid, ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};
use tokio::{
    net::unix::pipe,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

use super::{plan::Plan, pty::Master, users::User};
use crate::{
    apart::{ApartError, apart},
    inheritance::{self, Ignored},
};

/// Size of each pipe, in bytes: fewer switches between the agent and a command that moves much data. More than Linux'
/// own 64 KiB; a refusal is no harm.
const PIPE_SIZE: usize = 256 * 1024;

/// Group of terminals, owner of each slave in most distributions.
const TTY_GROUP: u32 = 5;

/// How long the start of a process may take. Before it is there it enters its directory, which may be on a share that does
/// not answer.
const START: Duration = Duration::from_secs(30);

/// A process that has been started, and its ends.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) group: Group,
    pub(crate) io: ChildIo,
}

/// How to talk to it.
#[derive(Debug)]
pub(crate) enum ChildIo {
    /// Three pipes.
    Pipes { stdin: ChildStdin, stdout: ChildStdout, stderr: ChildStderr },
    /// One terminal.
    Terminal(Master),
}

/// The processes of a command: signals go to all of them.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    leader: Pid,
    terminal: Option<Master>,
}

impl Group {
    /// Sends a signal, 1 to 64; other numbers are ignored. With a terminal the job in the foreground gets it, too.
    pub(crate) fn signal(&self, signal: i32) {
        if !(1..=64).contains(&signal) {
            return;
        }
        let foreground = self.terminal.as_ref().and_then(|master| tcgetpgrp(master.as_fd()).ok());
        for group in
            [Some(self.leader), foreground.filter(|group| *group != self.leader)].into_iter().flatten()
        {
            // SAFETY: kill(2) takes two integers and touches no memory of this process. A group that has ended
            // already is an error that means nothing.
            let _ended = unsafe { libc::kill(-group.as_raw_nonzero().get(), signal) };
        }
    }
}

/// Starts the process. One that comes to be after the limit is killed.
pub(crate) async fn start(plan: Plan) -> io::Result<Started> {
    let place = place_of(&plan);
    let late = |started: io::Result<Started>| {
        if let Ok(Started { group, .. }) = started {
            group.signal(libc::SIGKILL);
        }
    };
    let started = apart(START, move || start_now(&plan), late).await;
    started.map_err(|error| not_started(error, &place))?
}

/// Starts a process that depends on no stream and no terminal. One that comes to be after the limit is killed.
pub(crate) async fn start_apart(plan: Plan) -> io::Result<Apart> {
    let place = place_of(&plan);
    let late = |started: io::Result<Apart>| {
        if let Ok(Apart { leader, .. }) = started {
            Group { leader, terminal: None }.signal(libc::SIGKILL);
        }
    };
    let started = apart(START, move || start_apart_now(&plan), late).await;
    started.map_err(|error| not_started(error, &place))?
}

/// Where a process is to start, for messages.
fn place_of(plan: &Plan) -> String {
    plan.directories.first().map_or("/".into(), |place| place.to_string_lossy()).into_owned()
}

fn not_started(error: ApartError, place: &str) -> io::Error {
    match error {
        ApartError::Stuck => io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "it has not started within {} s: the file system of {place} or of the program does not answer",
                START.as_secs()
            ),
        ),
        error @ (ApartError::Thread(_) | ApartError::Ended) => error.into(),
    }
}

fn start_now(plan: &Plan) -> io::Result<Started> {
    let mut command = std::process::Command::new(&plan.program);
    command.arg0(&plan.arg0).args(&plan.args).env_clear().envs(&plan.variables);
    let terminal = plan.terminal.map(|size| open_terminal(size, &plan.user)).transpose()?;
    let master = match terminal {
        Some((master, slave)) => {
            command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
            Some(master)
        }
        None => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
            None
        }
    };
    prepare_child(&mut command, plan, if master.is_some() { Session::Terminal } else { Session::Agents });
    let mut child = Command::from(command).spawn()?;
    // The command, and with it this process's copies of the slave, is gone now: the terminal ends with its last user.
    let leader = leader_of(&child)?;
    let group = Group { leader, terminal: master.clone() };
    let io = match (master, child.stdin.take(), child.stdout.take(), child.stderr.take()) {
        (Some(master), ..) => ChildIo::Terminal(master),
        (None, Some(stdin), Some(stdout), Some(stderr)) => {
            for pipe in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
                let _smaller = fcntl_setpipe_size(pipe, PIPE_SIZE);
            }
            ChildIo::Pipes { stdin, stdout, stderr }
        }
        (None, ..) => return Err(io::Error::other("the process has no pipes")),
    };
    Ok(Started { child, group, io })
}

/// A process in a session of its own, without input and with one pipe for all that it prints.
#[derive(Debug)]
pub(crate) struct Apart {
    pub(crate) child: Child,
    /// Its pid, which is its session's as well.
    pub(crate) leader: Pid,
    pub(crate) output: pipe::Receiver,
}

fn start_apart_now(plan: &Plan) -> io::Result<Apart> {
    let (reader, writer) = io::pipe()?;
    let mut command = std::process::Command::new(&plan.program);
    command.arg0(&plan.arg0).args(&plan.args).env_clear().envs(&plan.variables);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    prepare_child(&mut command, plan, Session::Own);
    // With the command this process's copies of the writing end go: the pipe ends with its last user.
    let child = Command::from(command).spawn()?;
    let leader = leader_of(&child)?;
    let _smaller = fcntl_setpipe_size(&reader, PIPE_SIZE);
    Ok(Apart { child, leader, output: pipe::Receiver::from_owned_fd(reader.into())? })
}

fn leader_of(child: &Child) -> io::Result<Pid> {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    pid.ok_or_else(|| io::Error::other("the process ended before it could be looked at"))
}

fn open_terminal((rows, cols): (u16, u16), user: &User) -> io::Result<(Master, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    tcsetwinsize(&master, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    if rustix::process::geteuid().is_root() {
        // So that the command may open its terminal again by name.
        rustix::fs::fchown(&slave, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(TTY_GROUP)))?;
        rustix::fs::fchmod(&slave, Mode::RUSR | Mode::WUSR | Mode::WGRP)?;
    }
    Ok((Master::new(master)?, slave))
}

/// Which session a process belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// The agent's.
    Agents,
    /// One of its own.
    Own,
    /// One of its own, whose terminal is its standard input.
    Terminal,
}

/// What the new process does between fork and exec.
fn prepare_child(command: &mut std::process::Command, plan: &Plan, session: Session) {
    let directories: Vec<CString> = plan.directories.clone();
    let (uid, gid) = (Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid));
    let groups: Vec<Gid> = plan.user.groups.iter().map(|&id| Gid::from_raw(id)).collect();
    // An agent that is not root (in its own tests) runs commands as itself.
    let change_user = rustix::process::geteuid().is_root();
    let ignored = Ignored::look();
    let child_side = move || {
        if session != Session::Agents {
            setsid()?;
        }
        if session == Session::Terminal {
            ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        inheritance::forget(ignored);
        // The agent is spared when memory runs out; what it starts is not.
        if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty()) {
            let _kept = rustix::io::write(&file, b"0");
        }
        if change_user {
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        for directory in &directories {
            if rustix::process::chdir(directory.as_c_str()).is_ok() {
                break;
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs in the forked child, where only async-signal-safe work is allowed: everything in it is
    // a plain system call through rustix on values that were made before the fork, and nothing allocates or locks.
    unsafe { command.pre_exec(child_side) };
}
