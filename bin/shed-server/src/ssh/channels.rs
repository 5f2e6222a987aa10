//! The channels of one connection, as the handler and the channels' tasks share them.
//!
//! The handler puts in what comes from the client, a task takes it out and ends its channel. Whoever comes first ends
//! it: a client that closes, a task that is done, a connection that is gone.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use russh::ChannelId;
use tokio_util::sync::CancellationToken;

use super::{
    controls::Controls,
    intake::Intake,
    output::Output,
    session::Terminal,
    windows::{Overrun, Windows},
};

/// Channels of one connection at once. An editor takes some dozens, a browser behind a forwarded port some hundreds;
/// OpenSSH's server has 10 sessions (`MaxSessions`) and forwards without a limit.
const MAX_CHANNELS: usize = 1024;

/// Channels of one connection that the server closed first. russh 0.65 keeps about 4 KiB of each until the connection
/// ends; OpenSSH's client makes a new connection when its master is refused one more session.
const MAX_CLOSED_FIRST: usize = 16384;

/// Bytes that the channels of one connection hold together before each of them is slowed down that holds more than
/// [`FEW`]. Far more than all programs of a person have waiting; the windows alone would allow some gigabytes.
const MOST_HELD: usize = 128 << 20;

/// What a channel may hold without being slowed down, however much the others hold, in bytes.
pub(super) const FEW: usize = 64 << 10;

/// The channels of a connection. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Channels(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    channels: HashMap<ChannelId, Channel>,
    windows: Windows<ChannelId>,
    closed_first: usize,
    /// The bytes of all channels.
    held: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Channel {
    inlet: Inlet,
    stage: Stage,
}

/// What has been asked of a channel.
#[derive(Debug)]
enum Stage {
    /// A session in which nothing runs yet.
    Fresh { output: Box<Output>, terminal: Option<Terminal> },
    /// Something runs, or is being connected.
    Busy,
}

/// What comes from the client on a channel.
#[derive(Debug, Clone)]
pub(super) struct Inlet {
    /// Data.
    pub(super) intake: Arc<Intake>,
    /// Signals and sizes.
    pub(super) controls: Arc<Controls>,
    /// Cancelled when the client has closed the channel, was refused it, or is gone.
    pub(super) gone: CancellationToken,
    /// Cancelled when the client is gone.
    pub(super) lost: CancellationToken,
}

/// There are too many channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

/// A request that makes no sense in the channel's stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfTurn;

/// A packet that has to wait until its channel's task has caught up.
#[derive(Debug)]
pub(super) struct Pile {
    /// The channel's bytes.
    pub(super) intake: Arc<Intake>,
    /// How many channels of the connection pile up.
    pub(super) piles: usize,
    /// Whether the connection holds more than it should.
    pub(super) is_full: bool,
}

/// A channel's place in the table, until it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    channels: Channels,
    id: ChannelId,
}

impl Entry {
    /// Notes that the server closes the channel now, if the client has not done so before.
    pub(super) fn closes(&self) {
        let mut table = self.channels.lock();
        if table.channels.get(&self.id).is_some_and(|channel| !channel.inlet.gone.is_cancelled()) {
            table.closed_first += 1;
        }
    }
}

impl Channels {
    /// Adds a session, in which nothing runs yet.
    pub(super) fn open_session(
        &self,
        id: ChannelId,
        lost: CancellationToken,
        output: Output,
    ) -> Result<(), TooMany> {
        self.open(id, lost, Stage::Fresh { output: Box::new(output), terminal: None }).map(drop)
    }

    /// Adds a channel that has a task from the start.
    pub(super) fn open_busy(
        &self,
        id: ChannelId,
        lost: CancellationToken,
    ) -> Result<(Inlet, Entry), TooMany> {
        let inlet = self.open(id, lost, Stage::Busy)?;
        Ok((inlet, Entry { channels: self.clone(), id }))
    }

    fn open(&self, id: ChannelId, lost: CancellationToken, stage: Stage) -> Result<Inlet, TooMany> {
        let mut table = self.lock();
        if table.channels.len() >= MAX_CHANNELS || table.closed_first >= MAX_CLOSED_FIRST {
            return Err(TooMany);
        }
        table.windows.open(id);
        let intake = Arc::new(Intake::counted_in(Arc::clone(&table.held)));
        let inlet = Inlet { intake, controls: Arc::default(), gone: lost.child_token(), lost };
        let _none = table.channels.insert(id, Channel { inlet: inlet.clone(), stage });
        Ok(inlet)
    }

    /// Gives a session a terminal.
    pub(super) fn set_terminal(&self, id: ChannelId, new: Terminal) -> Result<(), OutOfTurn> {
        match self.lock().channels.get_mut(&id) {
            Some(Channel { stage: Stage::Fresh { terminal: terminal @ None, .. }, .. }) => {
                *terminal = Some(new);
                Ok(())
            }
            Some(_) | None => Err(OutOfTurn),
        }
    }

    /// Takes a session over for the one program that runs in it.
    pub(super) fn start(&self, id: ChannelId) -> Result<(Inlet, Entry, Output, Option<Terminal>), OutOfTurn> {
        let mut table = self.lock();
        let channel = table.channels.get_mut(&id).ok_or(OutOfTurn)?;
        match std::mem::replace(&mut channel.stage, Stage::Busy) {
            Stage::Fresh { output, terminal } => {
                let entry = Entry { channels: self.clone(), id };
                Ok((channel.inlet.clone(), entry, *output, terminal))
            }
            Stage::Busy => Err(OutOfTurn),
        }
    }

    /// Gives a session's terminal a new size.
    pub(super) fn resize(&self, id: ChannelId, rows: u16, cols: u16) {
        match self.lock().channels.get_mut(&id) {
            Some(Channel { stage: Stage::Fresh { terminal: Some(terminal), .. }, .. }) => {
                (terminal.rows, terminal.cols) = (rows, cols);
            }
            Some(Channel { stage: Stage::Busy, inlet }) => inlet.controls.resize(rows, cols),
            Some(Channel { stage: Stage::Fresh { terminal: None, .. }, .. }) | None => {}
        }
    }

    /// Passes a signal on to the program that runs; there is nobody else to take it.
    pub(super) fn signal(&self, id: ChannelId, number: i32) {
        if let Some(Channel { stage: Stage::Busy, inlet }) = self.lock().channels.get(&id) {
            inlet.controls.signal(number);
        }
    }

    /// Takes in what the client sent. Returns the channel's bytes when more of them wait than should.
    pub(super) fn receive(&self, id: ChannelId, data: &[u8]) -> Result<Option<Pile>, Overrun> {
        let mut table = self.lock();
        let Some(channel) = table.channels.get(&id) else { return Ok(None) };
        let intake = Arc::clone(&channel.inlet.intake);
        let piles_up = table.windows.received(id, data.len(), intake.len())?;
        intake.push(data);
        let is_full = table.held.load(Relaxed) > MOST_HELD && intake.len() > FEW;
        Ok((piles_up || is_full).then(|| Pile { intake, piles: table.windows.piles(), is_full }))
    }

    /// Counts what the client sent and nobody wants.
    pub(super) fn discard(&self, id: ChannelId, length: usize) -> Result<(), Overrun> {
        let mut table = self.lock();
        let Some(channel) = table.channels.get(&id) else { return Ok(()) };
        let held = channel.inlet.intake.len();
        table.windows.received(id, length, held).map(drop)
    }

    /// Notes a grant of russh, and returns the next target.
    pub(super) fn granted(&self, id: ChannelId, target: u32) -> u32 {
        let Table { channels, windows, .. } = &mut *self.lock();
        windows.granted(id, target, |id| channels.get(&id).map_or(0, |channel| channel.inlet.intake.len()))
    }

    /// Notes that the client has said all.
    pub(super) fn end_of_input(&self, id: ChannelId) {
        if let Some(channel) = self.lock().channels.get(&id) {
            channel.inlet.intake.end();
        }
    }

    /// Notes that the client has closed a channel.
    pub(super) fn closed(&self, id: ChannelId) {
        if let Some(channel) = self.remove(id) {
            channel.inlet.intake.end();
            channel.inlet.gone.cancel();
        }
    }

    fn remove(&self, id: ChannelId) -> Option<Channel> {
        let mut table = self.lock();
        table.windows.close(id);
        table.channels.remove(&id)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _gone = self.channels.remove(self.id);
    }
}
