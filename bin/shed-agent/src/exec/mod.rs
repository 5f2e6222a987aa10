//! The exec service (port 1024, spec B.3): one stream, one command.
//!
//! The first frame asks for the command, the last one says how it ended. When the host goes away in between, the
//! command is told by SIGHUP and, if that does not end it, by SIGKILL. A command that has ended leaves what it started
//! in the background alone.

pub(crate) mod environment;
mod input;
mod output;
pub(crate) mod plan;
mod pty;
pub(crate) mod spawn;
#[cfg(test)]
mod tests;
pub(crate) mod users;

use std::pin::pin;

use futures::StreamExt;
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind, timeouts};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    process::Child,
    sync::oneshot,
    time::timeout,
};
use tokio_util::codec::{Encoder, FramedRead};

use self::{
    input::Input,
    output::{HostGone, Output},
    spawn::{ChildIo, Group, Started},
};
use crate::{serve::ByteStream, state::State};

/// Exit code when the request cannot be understood (spec B.3).
const BAD_REQUEST: i32 = 1;

/// Serves one stream.
pub(crate) async fn serve(stream: impl ByteStream, state: &State) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut frames = FramedRead::new(reader, FrameCodec);
    let request: ExecRequest = match frames.next().await {
        Some(Ok(frame)) if frame.kind == FrameKind::ExecRequest => match frame.parse() {
            Ok(request) => request,
            Err(_) => {
                return finish(writer, ExitStatus::failed(BAD_REQUEST, "the request cannot be read")).await;
            }
        },
        Some(_) => {
            return finish(writer, ExitStatus::failed(BAD_REQUEST, "the first frame is no request")).await;
        }
        None => return,
    };
    let started = match plan::make(&request, state) {
        Ok(plan) => {
            let name = plan.arg0.clone();
            let started = spawn::start(plan).await;
            started.map_err(|error| ExitStatus::failed(plan::code_of(&error), format!("{name}: {error}")))
        }
        Err(status) => Err(status),
    };
    match started {
        Ok(Started { child, group, io: ChildIo::Pipes { stdin, stdout, stderr } }) => {
            let (input, queue) = Input::new(group.clone(), None);
            let output = Output::pipes(writer, stdout, stderr);
            let session = Session { child, group, input, frames };
            session.run(queue.feed(stdin), |exited| output.run(exited)).await;
        }
        Ok(Started { child, group, io: ChildIo::Terminal(master) }) => {
            let (input, queue) = Input::new(group.clone(), Some(master.clone()));
            let output = Output::terminal(writer, master.clone());
            let session = Session { child, group, input, frames };
            session.run(queue.feed(master), |exited| output.run(exited)).await;
        }
        Err(status) => {
            // The reader stays until the answer is out: dropping it must not reset the stream.
            finish(&mut writer, status).await;
        }
    }
}

/// A running command and its host.
struct Session<S> {
    child: Child,
    group: Group,
    input: Input,
    frames: FramedRead<ReadHalf<S>, FrameCodec>,
}

impl<S: ByteStream> Session<S> {
    async fn run<O>(self, feed: impl Future<Output = ()>, output: impl FnOnce(oneshot::Receiver<()>) -> O)
    where
        O: Future<Output = Result<WriteHalf<S>, HostGone>>,
    {
        let Self { mut child, group, input, frames } = self;
        let (tell_exit, exited) = oneshot::channel();
        let mut tell_exit = Some(tell_exit);
        let mut output = pin!(output(exited));
        let mut input = pin!(input.run(frames));
        let mut feed = pin!(feed);
        let mut feeding = true;
        let mut ended = None;
        let mut sent = None;
        // Ends when the command has ended and its output is sent, or when the host is gone.
        let host_is_there = loop {
            tokio::select! {
                status = child.wait(), if ended.is_none() => {
                    ended = Some(status);
                    tell_exit.take().map(|tell| tell.send(()));
                }
                result = &mut output, if sent.is_none() => match result {
                    Ok(host) => sent = Some(host),
                    Err(HostGone) => break false,
                },
                () = &mut input => break false,
                () = &mut feed, if feeding => feeding = false,
            }
            if ended.is_some() && sent.is_some() {
                break true;
            }
        };
        match (ended, sent) {
            (Some(status), Some(host)) if host_is_there => finish(host, status_of(status)).await,
            (Some(_), _) => {}
            (None, _) => hang_up(&mut child, &group).await,
        }
    }
}

/// Ends a command whose host is gone.
async fn hang_up(child: &mut Child, group: &Group) {
    group.signal(libc::SIGHUP);
    // A stopped process would not see the hang-up.
    group.signal(libc::SIGCONT);
    if timeout(timeouts::EXEC_HANGUP_GRACE, child.wait()).await.is_err() {
        group.signal(libc::SIGKILL);
        let _reaped = child.wait().await;
    }
}

fn status_of(status: std::io::Result<std::process::ExitStatus>) -> ExitStatus {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ExitStatus::exited(code),
            (None, Some(signal)) => ExitStatus::signalled(signal),
            (None, None) => ExitStatus::failed(BAD_REQUEST, "the command ended in an unknown way"),
        },
        Err(error) => ExitStatus::failed(BAD_REQUEST, format!("cannot wait for the command: {error}")),
    }
}

/// Sends the last frame and closes the agent's direction.
async fn finish(mut host: impl AsyncWrite + Unpin, status: ExitStatus) {
    let mut bytes = bytes::BytesMut::new();
    let frame = Frame::json(FrameKind::ExitStatus, &status);
    FrameCodec.encode(frame, &mut bytes).expect("a status is smaller than a frame may be");
    if host.write_all(&bytes).await.is_ok() {
        // When this fails the host has gone with the status in its hands or without: nothing is left to do.
        let _gone = host.shutdown().await;
    }
}
