//! Runs one program of a step to its end, or ends it.
//!
//! The step is over when the program itself has ended. What it has left in the background lives on, and its output is
//! read for as long as it prints, so that it never meets a closed pipe.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use rustix::io::ioctl_fionread;
use shed_protocol::timeouts;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{live::PIECE, output::Output, session};
use crate::exec::{
    plan::Plan,
    spawn::{Apart, start_apart},
};

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal of somebody else's.
    Signalled(i32),
    /// It took too long and was ended.
    TimedOut,
    /// A stop of the shed has ended it.
    Stopped,
}

/// What is known of a program that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    /// Its last lines.
    pub(super) last_lines: Vec<String>,
    /// Why its log is not whole, if it is not.
    pub(super) log_trouble: Option<String>,
}

/// Runs a program for at most `limit`.
pub(super) async fn run(
    plan: Plan,
    limit: Duration,
    stop: &CancellationToken,
    mut output: Output,
) -> io::Result<Ended> {
    let deadline = Instant::now() + limit;
    // Whatever starts when nobody waits any more is ended there.
    let nothing = |ending| Ended { ending, last_lines: Vec::new(), log_trouble: None };
    let Apart { mut child, leader, output: mut pipe } = tokio::select! {
        started = start_apart(plan) => started?,
        () = sleep_until(deadline) => return Ok(nothing(Ending::TimedOut)),
        () = stop.cancelled() => return Ok(nothing(Ending::Stopped)),
    };
    let mut buffer = vec![0; PIECE];
    let mut open = true;
    let mut status: Option<io::Result<ExitStatus>> = None;
    // Until when output may still come once the program has ended, and how much of it was there at that moment.
    let mut drain: Option<Instant> = None;
    let mut owed = 0;
    let mut forced: Option<Ending> = None;
    let mut ending = std::pin::pin!(None);
    loop {
        let running = forced.is_none() && status.is_none();
        tokio::select! {
            ended = child.wait(), if status.is_none() => {
                status = Some(ended);
                drain = Some(Instant::now() + timeouts::EXEC_DRAIN);
                owed = waiting(&pipe);
            }
            read = pipe.read(&mut buffer), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(length) => {
                    owed = owed.saturating_sub(length);
                    output.take(&buffer[..length]).await;
                }
            },
            () = sleep_until(deadline), if running => {
                forced = Some(Ending::TimedOut);
                ending.set(Some(session::end(leader)));
            }
            () = stop.cancelled(), if running => {
                forced = Some(Ending::Stopped);
                ending.set(Some(session::end(leader)));
            }
            () = async { ending.as_mut().as_pin_mut().expect("the branch is on only with one").await }, if ending.is_some() => {
                ending.set(None);
                drain = Some(Instant::now() + timeouts::EXEC_DRAIN);
            }
            () = sleep_until(drain.unwrap_or(deadline)), if drain.is_some() && open && ending.is_none() => {}
        }
        let late = drain.is_some_and(|drain| Instant::now() >= drain) && owed == 0;
        // Whoever was killed and cannot be waited for is the kernel's.
        let over = status.is_some() || (forced.is_some() && late);
        if over && ending.is_none() && (!open || late) {
            break;
        }
    }
    let (last_lines, log_trouble) = output.end_of_step().await;
    if open {
        tokio::spawn(read_on(pipe, output));
    }
    let ending = match (forced, status) {
        (Some(forced), _) => forced,
        (None, Some(status)) => ending_of(status?),
        (None, None) => return Err(io::Error::other("the program's end was not seen")),
    };
    Ok(Ended { ending, last_lines, log_trouble })
}

/// Reads what is left behind prints, until it has ended.
async fn read_on(mut pipe: pipe::Receiver, mut output: Output) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        output.take(&buffer[..length]).await;
    }
}

fn ending_of(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, signal) => Ending::Signalled(signal.unwrap_or(0)),
    }
}

fn waiting(pipe: &pipe::Receiver) -> usize {
    ioctl_fionread(pipe).ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}
