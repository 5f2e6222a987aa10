//! The service itself: waits for the host on the machine's link and gives each stream to its service.

use std::{io, os::fd::AsFd, process::ExitCode, sync::Arc};

use shed_link::{Incoming, MuxClosed, MuxStream, Synced, guest_handshake, mux};
use shed_types::{GuestPort, error_chain};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    signal::unix::{SignalKind, signal},
};

use crate::{
    exec, extensions, files, health, journal, kernel_log, log, messages, publish, setup,
    state::State,
    tcp,
    transport::{Link, VirtioPort, VsockPorts, VsockStream},
};

/// What every service runs on.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// Says why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot open the port to the host")]
    OpenPort(#[source] io::Error),
    #[error("cannot wait for the signal to end")]
    Signal(#[source] io::Error),
    #[error("the port to the host broke")]
    Port(#[source] io::Error),
}

/// Open files that the agent wants at least: a stream through the TCP proxy is one, and a host opens more than a
/// thousand of them. The same as in the unit, for images whose init is the agent itself and knows no units.
const DESCRIPTORS: u64 = 65536;

/// Runs the service until it fails, after which whoever started it starts it again, or is asked to end.
pub(crate) fn run() -> ExitCode {
    want_descriptors();
    // Signatures and credentials of extensions go through this process.
    if let Err(error) = shed_process::leave_no_core() {
        log::info(&format!("a crash may leave secrets in a core file: {error}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(ServeError::Runtime).and_then(|runtime| runtime.block_on(serve()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::failed(&error);
            ExitCode::FAILURE
        }
    }
}

/// Raises the limit of open files, where it is lower.
fn want_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    // Nothing means no limit.
    if limit.current.is_some_and(|current| current < DESCRIPTORS) {
        limit.current = Some(DESCRIPTORS);
        limit.maximum = limit.maximum.map(|maximum| maximum.max(DESCRIPTORS));
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            log::info(&format!("the limit of open files stays as it is: {error}"));
        }
    }
}

async fn serve() -> Result<(), ServeError> {
    let state = Arc::new(State::new());
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let publishing = publish::begin(&state.desk);
    let link = async {
        match Link::of_this_boot() {
            Link::Serial => serve_serial(&state).await,
            Link::Vsock => serve_vsock(&state).await,
        }
    };
    tokio::select! {
        served = link => served,
        // Whoever waits for a response hears why there will be none.
        _ended = async { terminate.recv().await; publishing.end().await } => Ok(()),
    }
}

async fn serve_serial(state: &Arc<State>) -> Result<(), ServeError> {
    let mut port = VirtioPort::open().await.map_err(ServeError::OpenPort)?;
    log::console("shed-agent: ready");
    watch_the_guest(state);
    let mut generation = 0;
    loop {
        port.wait_for_host().await.map_err(ServeError::Port)?;
        generation += 1;
        serve_host(&mut port, generation, state).await;
    }
}

async fn serve_vsock(state: &Arc<State>) -> Result<(), ServeError> {
    let ports = VsockPorts::open().map_err(ServeError::OpenPort)?;
    log::console("shed-agent: ready");
    watch_the_guest(state);
    let shared = Arc::clone(state);
    let serving = ports.serve(move |port, stream| {
        tokio::spawn(serve_connection(port, stream, Arc::clone(&shared)));
    });
    // The ports listen already: what the host opens from now on is taken.
    let ((), served) = tokio::join!(VsockPorts::tell_ready(), serving);
    served.map_err(ServeError::Port)
}

async fn serve_connection(port: GuestPort, stream: VsockStream, state: Arc<State>) {
    match port {
        GuestPort::Exec
        | GuestPort::Health
        | GuestPort::Messages
        | GuestPort::Tcp
        | GuestPort::Files
        | GuestPort::Setup => {
            let _reason = serve_mux(Synced::fresh(stream), &state).await;
        }
        GuestPort::NineP => {
            let fd = match stream.as_fd().try_clone_to_owned() {
                Ok(fd) => fd,
                Err(error) => return log::info(&format!("a host directory's stream is lost: {error}")),
            };
            if let Err(error) = state.share_streams.keep(stream, fd.as_fd()).await {
                log::info(&format!("a host directory's stream is refused: {error}"));
            }
        }
    }
}

/// Starts what goes on for as long as the agent runs: looking for events that the host is told of, and the extensions.
fn watch_the_guest(state: &Arc<State>) {
    let shared = Arc::clone(state);
    tokio::spawn(async move { kernel_log::watch(&shared).await });
    let shared = Arc::clone(state);
    tokio::spawn(async move { journal::failures::watch(&shared).await });
    let shared = Arc::clone(state);
    tokio::spawn(async move { extensions::keep(&shared, &*shared.desk).await });
}

/// Serves one connection of the host, from the handshake to the end of the mux.
async fn serve_host(port: &mut VirtioPort, generation: u32, state: &Arc<State>) {
    let Ok(pipe) = guest_handshake(port, generation).await else {
        // The host has gone again; the next one is waited for.
        return;
    };
    let reason = serve_mux(pipe, state).await;
    log::info(&format!("link {generation} ended: {}", error_chain(&reason)));
}

/// Serves all streams that the host opens in one pipe; returns why it ended.
async fn serve_mux<T: AsyncRead + AsyncWrite + Unpin + Send>(
    pipe: Synced<T>,
    state: &Arc<State>,
) -> MuxClosed {
    let (mut acceptor, driver) = mux::guest(pipe);
    let accept = async {
        while let Some(incoming) = acceptor.accept().await {
            tokio::spawn(dispatch(incoming, Arc::clone(state)));
        }
        // The driver says why.
        std::future::pending::<MuxClosed>().await
    };
    tokio::select! {
        reason = driver => reason,
        reason = accept => reason,
    }
}

async fn dispatch(incoming: Incoming<MuxStream>, state: Arc<State>) {
    let port = incoming.port();
    let accepted = match port {
        GuestPort::Exec
        | GuestPort::Health
        | GuestPort::Messages
        | GuestPort::Tcp
        | GuestPort::Files
        | GuestPort::Setup => incoming.accept().await,
        GuestPort::NineP => {
            // The kernel takes sockets, and this is none. When the host has gone there is nobody to tell.
            let _gone = incoming.refuse("over this link directories are devices").await;
            return;
        }
    };
    if let Ok(stream) = accepted {
        serve_stream(port, stream, state).await;
    }
}

/// Serves one stream to its end.
async fn serve_stream(port: GuestPort, stream: impl ByteStream, state: Arc<State>) {
    match port {
        GuestPort::Exec => exec::serve(stream, &state).await,
        GuestPort::Health => health::serve(stream).await,
        GuestPort::Messages => messages::serve(stream, &state).await,
        GuestPort::Tcp => tcp::serve(stream).await,
        GuestPort::Files => files::serve(stream, &state).await,
        GuestPort::Setup => setup::serve(stream, &state).await,
        // Refused before a stream comes to be.
        GuestPort::NineP => {}
    }
}
