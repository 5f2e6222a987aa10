//! The guest of a fake machine: the agent's services, with a handful of commands.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use shed_protocol::{
    Command, ExecRequest, ExitStatus, Frame, FrameCodec, FrameError, FrameKind, MAX_PAYLOAD, Resize, Signal,
};
use shed_types::GuestPort;
use tokio::{io::DuplexStream, time::sleep};
use tokio_util::codec::Framed;

use super::{
    Machine, files, messages, setup, tcp,
    tmux::{self, Reply},
};

pub(super) type Frames = Framed<DuplexStream, FrameCodec>;
type Served = Pin<Box<dyn Future<Output = ()> + Send>>;
type Service = Box<dyn FnOnce(DuplexStream) -> Served + Send>;

/// Returns what serves a stream to `port`, if the fake has such a service.
pub(super) fn service(port: GuestPort, machine: &Arc<Machine>) -> Option<Service> {
    let machine = Arc::clone(machine);
    match port {
        GuestPort::Exec => Some(serve(|frames| async move { exec(frames, &machine).await })),
        GuestPort::Health => Some(serve(|frames| async move { health(frames).await })),
        GuestPort::Messages => Some(serve(|frames| messages::serve(frames, machine))),
        GuestPort::Tcp => Some(Box::new(|stream| Box::pin(tcp::serve(stream, machine)))),
        GuestPort::Files => Some(serve(|frames| files::serve(frames, machine))),
        GuestPort::Setup => Some(serve(|frames| setup::serve(frames, machine))),
        GuestPort::NineP => None,
    }
}

fn serve<F>(service: impl FnOnce(Frames) -> F + Send + 'static) -> Service
where
    F: Future<Output = Result<(), FrameError>> + Send + 'static,
{
    Box::new(|stream| {
        let served = service(Framed::new(stream, FrameCodec));
        Box::pin(async {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a fake guest gave up a stream");
            }
        })
    })
}

async fn health(mut frames: Frames) -> Result<(), FrameError> {
    while let Some(frame) = frames.next().await {
        if frame?.kind == FrameKind::HealthRequest {
            frames.send(Frame::empty(FrameKind::HealthResponse)).await?;
        }
    }
    Ok(())
}

async fn exec(mut frames: Frames, machine: &Arc<Machine>) -> Result<(), FrameError> {
    let Some(first) = frames.next().await else { return Ok(()) };
    let _running = Running::note(machine);
    let status = match begin(&first?) {
        Ok((command, request)) => match run(&command, &request, &mut frames, machine).await? {
            Some(status) => status,
            // The host is gone.
            None => return Ok(()),
        },
        Err(error) => ExitStatus::failed(1, error),
    };
    frames.send(Frame::json(FrameKind::ExitStatus, &status)).await
}

/// A command that runs, as [`FakeWorld::commands`](super::FakeWorld::commands) counts them.
struct Running<'a>(&'a Machine);

impl<'a> Running<'a> {
    fn note(machine: &'a Machine) -> Self {
        *machine.world.host().commands.entry(machine.spec.shed.clone()).or_default() += 1;
        Self(machine)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0.world.host().commands.get_mut(&self.0.spec.shed) {
            *count -= 1;
        }
    }
}

fn begin(frame: &Frame) -> Result<(Command, ExecRequest), String> {
    if frame.kind != FrameKind::ExecRequest {
        return Err("the stream does not begin with a request".to_owned());
    }
    let request: ExecRequest = frame.parse().map_err(|error| error.to_string())?;
    let command = request.command().map_err(|error| error.to_string())?;
    Ok((command, request))
}

/// Runs one of the few commands a fake knows. Returns nothing when the host has gone.
async fn run(
    command: &Command,
    request: &ExecRequest,
    frames: &mut Frames,
    machine: &Machine,
) -> Result<Option<ExitStatus>, FrameError> {
    let (program, args) = match command {
        Command::LoginShell => ("cat", &[][..]),
        Command::Program { program, args } => (program.as_str(), &args[..]),
        Command::Entrypoint { args } => ("request", &args[..]),
    };
    let number = |text: Option<&String>| text.and_then(|text| text.parse().ok());
    match (program, args) {
        ("true", _) => Ok(Some(ExitStatus::exited(0))),
        ("false", _) => Ok(Some(ExitStatus::exited(1))),
        ("exit", args) => Ok(Some(ExitStatus::exited(number(args.first()).unwrap_or(2)))),
        ("sh", [flag, script]) if flag == "-c" && script.starts_with("exit ") => {
            Ok(Some(ExitStatus::exited(script["exit ".len()..].trim().parse().unwrap_or(2))))
        }
        ("echo", args) => {
            print(frames, FrameKind::Data, &Bytes::from(format!("{}\n", args.join(" ")))).await?;
            Ok(Some(ExitStatus::exited(0)))
        }
        ("tmux", args) => match tmux::run(machine, request, args) {
            Reply::Printed { stdout, stderr, status } => {
                print(frames, FrameKind::Data, &stdout).await?;
                print(frames, FrameKind::Stderr, &stderr).await?;
                Ok(Some(status))
            }
            Reply::Never => until_signal(frames).await,
            Reply::HangsUp => Ok(None),
        },
        ("cat", _) => copy(frames).await,
        // What an SSH client sends is one string; here its words are separated by spaces, and that is all.
        ("bash", [flag, script]) if flag == "-lc" => {
            let words = script.split_whitespace().map(str::to_owned).collect();
            let inner = ExecRequest { cmd: words, ..request.clone() };
            match inner.command() {
                Ok(command) => Box::pin(run(&command, &inner, frames, machine)).await,
                Err(error) => Ok(Some(ExitStatus::failed(1, error.to_string()))),
            }
        }
        ("complain", args) => {
            print(frames, FrameKind::Stderr, &Bytes::from(format!("{}\n", args.join(" ")))).await?;
            Ok(Some(ExitStatus::exited(1)))
        }
        // What was asked for, as JSON.
        ("request", _) => {
            print(frames, FrameKind::Data, &Frame::json(FrameKind::ExecRequest, request).payload).await?;
            Ok(Some(ExitStatus::exited(0)))
        }
        ("sizes", _) => sizes(frames).await,
        // Prints as many bytes as it is told.
        ("yes", args) => {
            let mut left = args.first().and_then(|text| text.parse().ok()).unwrap_or(0);
            while left > 0 {
                let piece = left.min(MAX_PAYLOAD);
                print(frames, FrameKind::Data, &Bytes::from(vec![b'y'; piece])).await?;
                left -= piece;
            }
            Ok(Some(ExitStatus::exited(0)))
        }
        // Takes no input, nor anything else, for as long as its host is there.
        ("deaf", _) => std::future::pending().await,
        // Takes its input late, and slowly, and says at the end how much it was.
        ("slow", args) => {
            sleep(Duration::from_millis(u64::from(number(args.first()).unwrap_or(0).unsigned_abs()))).await;
            count(frames).await
        }
        ("sleep", args) => {
            let time = Duration::from_secs(u64::from(number(args.first()).unwrap_or(0).unsigned_abs()));
            tokio::select! {
                () = sleep(time) => Ok(Some(ExitStatus::exited(0))),
                signal = until_signal(frames) => signal,
            }
        }
        (other, _) => Ok(Some(ExitStatus::failed(127, format!("a fake guest has no {other:?}")))),
    }
}

async fn print(frames: &mut Frames, kind: FrameKind, text: &Bytes) -> Result<(), FrameError> {
    for start in (0..text.len()).step_by(MAX_PAYLOAD) {
        frames.send(Frame::new(kind, text.slice(start..text.len().min(start + MAX_PAYLOAD)))).await?;
    }
    Ok(())
}

/// Sends back what comes in, until there is no more.
async fn copy(frames: &mut Frames) -> Result<Option<ExitStatus>, FrameError> {
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        match frame.kind {
            FrameKind::Data if !frame.payload.is_empty() => frames.send(frame).await?,
            FrameKind::StdinEof => return Ok(Some(ExitStatus::exited(0))),
            FrameKind::Signal => return Ok(Some(ExitStatus::signalled(frame.parse::<Signal>()?.signal))),
            FrameKind::Data
            | FrameKind::ExecRequest
            | FrameKind::Resize
            | FrameKind::ExitStatus
            | FrameKind::Stderr
            | FrameKind::HealthRequest
            | FrameKind::HealthResponse
            | FrameKind::Message
            | FrameKind::FilesRequest
            | FrameKind::FilesReply
            | FrameKind::SetupRequest
            | FrameKind::SetupEvent
            | FrameKind::SetupReply => {}
        }
    }
    Ok(None)
}

/// Counts its input to the end and prints how many bytes came.
async fn count(frames: &mut Frames) -> Result<Option<ExitStatus>, FrameError> {
    let mut total = 0;
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        match frame.kind {
            FrameKind::Data => total += frame.payload.len(),
            FrameKind::StdinEof => {
                print(frames, FrameKind::Data, &Bytes::from(format!("{total}\n"))).await?;
                return Ok(Some(ExitStatus::exited(0)));
            }
            FrameKind::Signal
            | FrameKind::ExecRequest
            | FrameKind::Resize
            | FrameKind::ExitStatus
            | FrameKind::Stderr
            | FrameKind::HealthRequest
            | FrameKind::HealthResponse
            | FrameKind::Message
            | FrameKind::FilesRequest
            | FrameKind::FilesReply
            | FrameKind::SetupRequest
            | FrameKind::SetupEvent
            | FrameKind::SetupReply => {}
        }
    }
    Ok(None)
}

/// Prints each new size of its terminal, until a signal comes.
async fn sizes(frames: &mut Frames) -> Result<Option<ExitStatus>, FrameError> {
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        match frame.kind {
            FrameKind::Resize => {
                let Resize { rows, cols } = frame.parse()?;
                print(frames, FrameKind::Data, &Bytes::from(format!("{rows}x{cols}\n"))).await?;
            }
            FrameKind::Signal => return Ok(Some(ExitStatus::signalled(frame.parse::<Signal>()?.signal))),
            FrameKind::Data
            | FrameKind::StdinEof
            | FrameKind::ExecRequest
            | FrameKind::ExitStatus
            | FrameKind::Stderr
            | FrameKind::HealthRequest
            | FrameKind::HealthResponse
            | FrameKind::Message
            | FrameKind::FilesRequest
            | FrameKind::FilesReply
            | FrameKind::SetupRequest
            | FrameKind::SetupEvent
            | FrameKind::SetupReply => {}
        }
    }
    Ok(None)
}

async fn until_signal(frames: &mut Frames) -> Result<Option<ExitStatus>, FrameError> {
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        if frame.kind == FrameKind::Signal {
            return Ok(Some(ExitStatus::signalled(frame.parse::<Signal>()?.signal)));
        }
    }
    Ok(None)
}
