//! From the command to the host: stdout and stderr as frames, probes in between, and the end.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::io::ioctl_fionread;
use shed_protocol::{FrameKind, timeouts};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

/// Type byte and length before each payload (spec B.2).
const HEADER: usize = 5;

/// Bytes of one frame at most, its header included: with it a frame fills one of the mux, 64 KiB.
const CHUNK: usize = 64 * 1024;

/// How long a terminal whose command has ended may say nothing before it is closed: what the command itself wrote
/// passes through a kernel thread and may come a moment later.
const TERMINAL_QUIET: Duration = Duration::from_millis(250);

/// What a terminal may still hold when its command ends (kernel: TTYB_DEFAULT_MEM_LIMIT).
const TERMINAL_BUFFER: usize = 64 * 1024;

/// Says that the host cannot be written to any more.
#[derive(Debug)]
pub(crate) struct HostGone;

/// Where output comes from.
pub(crate) trait Source: AsyncRead + AsFd + Unpin {}

impl<T: AsyncRead + AsFd + Unpin> Source for T {}

/// One output of the command.
#[derive(Debug)]
struct Channel<S> {
    source: Option<S>,
    kind: FrameKind,
    buffer: Vec<u8>,
    /// Bytes that were there when the command ended and must still be sent.
    owed: usize,
}

/// Carries a command's output to the host.
#[derive(Debug)]
pub(crate) struct Output<W, A, B> {
    host: W,
    first: Channel<A>,
    second: Channel<B>,
    ending: Ending,
}

/// How to tell that output is complete when it does not end by itself, because something that the command has left
/// running holds it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// What was in the pipes is sent, and some time has gone by.
    Pipes,
    /// Nothing has come for a moment.
    Terminal,
}

impl<W: AsyncWrite + Unpin, A: Source, B: Source> Output<W, A, B> {
    /// Carries stdout and stderr apart.
    pub(crate) fn pipes(host: W, stdout: A, stderr: B) -> Self {
        let (first, second) =
            (Channel::new(stdout, FrameKind::Data), Channel::new(stderr, FrameKind::Stderr));
        Self { host, first, second, ending: Ending::Pipes }
    }

    /// Sends everything until both outputs have ended, or until the command has (told by `exited`) and what it wrote
    /// is sent. Returns the stream to the host.
    pub(crate) async fn run(mut self, exited: oneshot::Receiver<()>) -> Result<W, HostGone> {
        let mut exited = Some(exited);
        let mut limit: Option<Instant> = None;
        let probe = timeouts::EXEC_PROBE;
        let mut probes = interval_at(Instant::now() + probe, probe);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.first.is_open() || self.second.is_open() {
            let quiet_until = limit.map(|limit| self.quiet_until(limit));
            tokio::select! {
                _ = async { exited.as_mut().expect("the branch is on only with one").await }, if exited.is_some() => {
                    exited = None;
                    limit = Some(Instant::now() + timeouts::EXEC_DRAIN);
                    self.note_owed();
                }
                read = self.first.read(), if self.first.is_open() => {
                    self.first.pass_on(read, &mut self.host).await?;
                }
                read = self.second.read(), if self.second.is_open() => {
                    self.second.pass_on(read, &mut self.host).await?;
                }
                _ = probes.tick() => {
                    send(&mut self.host, FrameKind::Data, &mut [0; HEADER]).await?;
                }
                () = sleep_until(quiet_until.unwrap_or_else(Instant::now)), if quiet_until.is_some() => break,
            }
            let late = limit.is_some_and(|limit| Instant::now() >= limit);
            if late && self.first.owed == 0 && self.second.owed == 0 {
                break;
            }
        }
        Ok(self.host)
    }

    fn note_owed(&mut self) {
        match self.ending {
            Ending::Pipes => {
                self.first.owed = self.first.waiting();
                self.second.owed = self.second.waiting();
            }
            Ending::Terminal => self.first.owed = TERMINAL_BUFFER,
        }
    }

    /// Until when output may stay away before it counts as complete, after the command has ended.
    fn quiet_until(&self, limit: Instant) -> Instant {
        match self.ending {
            Ending::Pipes => limit.max(Instant::now() + TERMINAL_QUIET),
            Ending::Terminal => Instant::now() + TERMINAL_QUIET,
        }
    }
}

impl<W: AsyncWrite + Unpin, A: Source> Output<W, A, A> {
    /// Carries a terminal's output, which is one.
    pub(crate) fn terminal(host: W, terminal: A) -> Self {
        let second = Channel { source: None, kind: FrameKind::Stderr, buffer: Vec::new(), owed: 0 };
        Self { host, first: Channel::new(terminal, FrameKind::Data), second, ending: Ending::Terminal }
    }
}

impl<S: Source> Channel<S> {
    fn new(source: S, kind: FrameKind) -> Self {
        Self { source: Some(source), kind, buffer: Vec::new(), owed: 0 }
    }

    fn is_open(&self) -> bool {
        self.source.is_some()
    }

    /// Reads behind the place of the header. Nothing is lost when the future is dropped.
    async fn read(&mut self) -> io::Result<usize> {
        let Some(source) = &mut self.source else { return Ok(0) };
        self.buffer.resize(CHUNK, 0);
        source.read(&mut self.buffer[HEADER..]).await
    }

    /// Sends what was read, or closes the channel at its end.
    async fn pass_on<W: AsyncWrite + Unpin>(
        &mut self,
        read: io::Result<usize>,
        host: &mut W,
    ) -> Result<(), HostGone> {
        match read {
            Ok(0) | Err(_) => {
                self.source = None;
                self.buffer = Vec::new();
                self.owed = 0;
                Ok(())
            }
            Ok(length) => {
                self.owed = self.owed.saturating_sub(length);
                self.buffer.truncate(HEADER + length);
                send(host, self.kind, &mut self.buffer).await
            }
        }
    }

    /// Bytes that can be read at once.
    fn waiting(&self) -> usize {
        let waiting = self.source.as_ref().and_then(|source| ioctl_fionread(source).ok());
        waiting.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
    }
}

/// Writes one frame, whose payload stands in `buffer` behind the place of the header. One write, no copy.
async fn send<W: AsyncWrite + Unpin>(
    host: &mut W,
    kind: FrameKind,
    buffer: &mut [u8],
) -> Result<(), HostGone> {
    let length = u32::try_from(buffer.len() - HEADER).expect("a chunk is far below 4 GiB");
    buffer[0] = kind.byte();
    buffer[1..HEADER].copy_from_slice(&length.to_be_bytes());
    host.write_all(buffer).await.map_err(|_| HostGone)?;
    host.flush().await.map_err(|_| HostGone)
}

const _: () = assert!(CHUNK - HEADER <= shed_protocol::MAX_PAYLOAD);
