//! Many streams in one pipe: yamux, with one driver that owns the connection.
//!
//! [`host`] and [`guest`] return the driver as a future for the caller to spawn. The host only opens streams and the
//! guest only accepts them; a guest that tries the other way round gets its stream reset. All memory is bounded: the
//! number of streams, each one's window, and what waits for the pipe.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, future::poll_fn, stream::FuturesUnordered};
use shed_types::GuestPort;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
};

use crate::{
    connect::{Incoming, OpenError, open_stream},
    handshake::Synced,
    pipe::{Gate, Pipe},
    stream::{LingerSender, Lingering, MuxStream},
};

/// Largest body of a frame that either end sends, in bytes. One frame delays those of other streams: 64 KiB are
/// about 0.3 ms at the 200 MB/s of a virtio-serial port.
pub(crate) const MAX_FRAME: usize = 64 * 1024;

/// Streams that the host opens at most at a time.
///
/// An idle one costs each end about a kilobyte. What a stream that its user does not read can hold is its window: a
/// guest that fills all of them pins `MAX_STREAMS * 256 KiB + 32 MiB` = 416 MiB of the host's memory, and only while
/// that many clients of the host keep streams open that they do not read.
pub const MAX_STREAMS: usize = 1536;

/// Streams that are kept for everything but TCP, so that a thousand tunnels keep nobody from running a command, and
/// the server from talking to the agent.
const NOT_FOR_TCP: usize = 128;

/// Streams that yamux allows. Going beyond ends the connection, and the two ends notice the end of a stream at
/// different times, so this is well above [`MAX_STREAMS`].
const HARD_MAX_STREAMS: usize = 2 * MAX_STREAMS;

/// First window of a stream (yamux specification, "Flow Control").
const WINDOW: usize = 256 * 1024;

/// What all windows together may grow beyond the first size. yamux wants the sum of all: it grants each of
/// [`HARD_MAX_STREAMS`] its first window, takes memory for none of it in advance, and lets streams in use share this.
const WINDOW_GROWTH: usize = 32 * 1024 * 1024;

/// What is read at most from a stream that nobody here wants any more.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// How long such a stream is read at most.
const LINGER_TIME: Duration = Duration::from_secs(30);

/// How long the driver tries to say goodbye when nobody uses the mux any more.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Why a mux has ended; what its driver returns.
#[derive(Debug, thiserror::Error)]
pub enum MuxClosed {
    /// All handles and streams on this side were dropped.
    #[error("nobody on this side uses the link any more")]
    Unused,
    /// The other end closed the pipe or said goodbye.
    #[error("the other end closed the link")]
    ByPeer,
    /// The pipe broke, or what came out of it was no mux.
    #[error("the link broke")]
    Broken(#[source] yamux::ConnectionError),
}

/// The host's end: opens streams. Clones share the mux.
#[derive(Debug, Clone)]
pub struct MuxHandle {
    keep: KeepAlive,
    gate: Arc<Gate>,
    permits: Arc<Semaphore>,
    closed: watch::Receiver<bool>,
}

/// The guest's end: accepts streams.
#[derive(Debug)]
pub struct Acceptor {
    inbound: mpsc::UnboundedReceiver<yamux::Stream>,
    opening: FuturesUnordered<BoxFuture<Result<Incoming<MuxStream>, crate::AcceptError>>>,
    keep: KeepAlive,
    gate: Arc<Gate>,
}

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

/// Keeps the driver running, and reaches it.
#[derive(Debug, Clone)]
pub(crate) struct KeepAlive {
    opens: mpsc::UnboundedSender<OpenRequest>,
    lingers: LingerSender,
}

type OpenRequest = oneshot::Sender<yamux::Stream>;

impl KeepAlive {
    pub(crate) fn linger(&self, stream: Lingering) {
        // When the driver is gone the stream is, too.
        let _gone = self.lingers.send(stream);
    }
}

/// Starts the host's end on a pipe after its handshake. Spawn the future; it ends when the mux does.
pub fn host<T>(pipe: Synced<T>) -> (MuxHandle, impl Future<Output = MuxClosed> + Send)
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let gate = Arc::new(Gate::default());
    let (keep, requests) = keep_alive();
    let (closed_sender, closed) = watch::channel(false);
    let handle =
        MuxHandle { keep, gate: Arc::clone(&gate), permits: Arc::new(Semaphore::new(MAX_STREAMS)), closed };
    let driver = Driver::new(pipe, yamux::Mode::Client, gate, requests, None, closed_sender);
    (handle, driver.run())
}

/// Starts the guest's end on a pipe after its handshake. Spawn the future; it ends when the mux does.
pub fn guest<T>(pipe: Synced<T>) -> (Acceptor, impl Future<Output = MuxClosed> + Send)
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let gate = Arc::new(Gate::default());
    let (keep, requests) = keep_alive();
    let (closed_sender, _closed) = watch::channel(false);
    // The number of waiting streams is bounded by yamux's own limit.
    let (inbound_sender, inbound) = mpsc::unbounded_channel();
    let acceptor = Acceptor { inbound, opening: FuturesUnordered::new(), keep, gate: Arc::clone(&gate) };
    let driver = Driver::new(pipe, yamux::Mode::Server, gate, requests, Some(inbound_sender), closed_sender);
    (acceptor, driver.run())
}

impl MuxHandle {
    /// Opens a stream to a service of the agent and waits until the agent has accepted it.
    ///
    /// # Errors
    /// When the pipe is gone, too many streams are open, the agent refuses or does not answer in time.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream, if it was opened already.
    pub async fn open(&self, port: GuestPort) -> Result<MuxStream, OpenError> {
        let limit = stream_limit(port);
        let too_many = || OpenError::TooMany { limit };
        // Two callers at once may both pass this; it keeps a reserve, and the permits keep the limit.
        if self.permits.available_permits() <= MAX_STREAMS - limit {
            return Err(too_many());
        }
        let permit: OwnedSemaphorePermit =
            Arc::clone(&self.permits).try_acquire_owned().map_err(|_| too_many())?;
        let (sender, receiver) = oneshot::channel();
        self.keep.opens.send(sender).map_err(|_| OpenError::Gone)?;
        let stream = receiver.await.map_err(|_| OpenError::Gone)?;
        let stream = MuxStream::new(stream, Arc::clone(&self.gate), self.keep.clone(), Some(permit));
        open_stream(stream, port).await.map_err(|error| match error {
            OpenError::Io { .. } if self.is_closed() => OpenError::Gone,
            other => other,
        })
    }

    /// Resolves when the mux has ended; at once if it has.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error means that the driver was dropped, which ends the mux just as well.
        let _gone = closed.wait_for(|closed| *closed).await;
    }

    /// Whether the mux has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.closed.has_changed().is_err() || self.gate.is_dead()
    }
}

/// Returns how many streams may be open, counting all, when one more to this port is opened.
const fn stream_limit(port: GuestPort) -> usize {
    match port {
        GuestPort::Tcp => MAX_STREAMS - NOT_FOR_TCP,
        GuestPort::Exec
        | GuestPort::Health
        | GuestPort::Messages
        | GuestPort::Setup
        | GuestPort::Files
        | GuestPort::NineP => MAX_STREAMS,
    }
}

impl Acceptor {
    /// Waits for the next stream and its port. Returns nothing when the mux has ended.
    ///
    /// Streams that name no known port are refused here, and never seen.
    ///
    /// # Cancel safety
    /// No stream is lost when the future is dropped.
    pub async fn accept(&mut self) -> Option<Incoming<MuxStream>> {
        loop {
            tokio::select! {
                biased;
                Some(opened) = self.opening.next(), if !self.opening.is_empty() => {
                    if let Ok(incoming) = opened {
                        return Some(incoming);
                    }
                }
                inbound = self.inbound.recv() => {
                    let stream = MuxStream::new(inbound?, Arc::clone(&self.gate), self.keep.clone(), None);
                    self.opening.push(Box::pin(Incoming::read(stream)));
                }
            }
        }
    }
}

fn keep_alive() -> (KeepAlive, Requests) {
    let (opens, opens_receiver) = mpsc::unbounded_channel();
    let (lingers, lingers_receiver) = mpsc::unbounded_channel();
    (KeepAlive { opens, lingers }, Requests { opens: opens_receiver, lingers: lingers_receiver })
}

struct Requests {
    opens: mpsc::UnboundedReceiver<OpenRequest>,
    lingers: mpsc::UnboundedReceiver<Lingering>,
}

/// Owns the connection and makes everything move.
struct Driver<T> {
    connection: yamux::Connection<Pipe<T>>,
    requests: Requests,
    /// A request that yamux cannot serve until the other end has acknowledged earlier ones.
    delayed: Option<OpenRequest>,
    lingering: FuturesUnordered<BoxFuture<()>>,
    inbound: Option<mpsc::UnboundedSender<yamux::Stream>>,
    end: EndMark,
}

/// Marks the mux as ended, also when the driver is dropped in the middle.
struct EndMark {
    gate: Arc<Gate>,
    closed: watch::Sender<bool>,
}

impl Drop for EndMark {
    fn drop(&mut self) {
        self.gate.set_dead();
        self.closed.send_replace(true);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Driver<T> {
    fn new(
        pipe: Synced<T>,
        mode: yamux::Mode,
        gate: Arc<Gate>,
        requests: Requests,
        inbound: Option<mpsc::UnboundedSender<yamux::Stream>>,
        closed: watch::Sender<bool>,
    ) -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(HARD_MAX_STREAMS)
            .set_max_connection_receive_window(Some(HARD_MAX_STREAMS * WINDOW + WINDOW_GROWTH))
            .set_split_send_size(MAX_FRAME);
        let connection = yamux::Connection::new(Pipe::new(pipe, Arc::clone(&gate)), config, mode);
        let end = EndMark { gate, closed };
        Self { connection, requests, delayed: None, lingering: FuturesUnordered::new(), inbound, end }
    }

    async fn run(mut self) -> MuxClosed {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        if matches!(reason, MuxClosed::Unused) {
            let goodbye = poll_fn(|cx| self.connection.poll_close(cx));
            // The pipe is dropped next, which says the same.
            let _late = tokio::time::timeout(CLOSE_TIME, pin!(goodbye)).await;
        }
        reason
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<MuxClosed> {
        self.poll_lingering(cx);
        if let Poll::Ready(reason) = self.poll_opens(cx) {
            return Poll::Ready(reason);
        }
        let mut granted = false;
        loop {
            self.end.gate.begin();
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    // Nobody accepts on the host's side: dropping the stream resets it.
                    if let Some(inbound) = &self.inbound {
                        let _unwanted = inbound.send(stream);
                    }
                }
                Poll::Ready(None) => return Poll::Ready(MuxClosed::ByPeer),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(MuxClosed::Broken(error)),
                Poll::Pending if self.end.gate.is_shut() && !granted => {
                    granted = true;
                    self.end.gate.grant();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_opens(&mut self, cx: &mut Context<'_>) -> Poll<MuxClosed> {
        loop {
            let request = match self.delayed.take() {
                Some(request) => request,
                None => match self.requests.opens.poll_recv(cx) {
                    Poll::Ready(Some(request)) => request,
                    // What lingers wakes this when it has ended.
                    Poll::Ready(None) if !self.lingering.is_empty() => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(MuxClosed::Unused),
                    Poll::Pending => return Poll::Pending,
                },
            };
            if request.is_closed() {
                continue;
            }
            match self.connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    let _unwanted = request.send(stream);
                }
                Poll::Ready(Err(yamux::ConnectionError::Closed)) => return Poll::Ready(MuxClosed::ByPeer),
                Poll::Ready(Err(error)) => return Poll::Ready(MuxClosed::Broken(error)),
                Poll::Pending => {
                    self.delayed = Some(request);
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_lingering(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(lingering)) = self.requests.lingers.poll_recv(cx) {
            self.lingering.push(Box::pin(read_out(lingering)));
        }
        while let Poll::Ready(Some(())) = self.lingering.poll_next_unpin(cx) {}
    }
}

/// Reads and discards until the other end is done, within limits.
async fn read_out(mut lingering: Lingering) {
    let read_all = async {
        let mut seen = 0;
        while seen < LINGER_BYTES {
            match lingering.stream.next().await {
                Some(Ok(packet)) => seen += packet.as_ref().len(),
                Some(Err(_)) | None => return,
            }
        }
    };
    let _late = tokio::time::timeout(LINGER_TIME, read_all).await;
}
