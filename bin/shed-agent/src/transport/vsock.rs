//! The agent's ports as vsock ports, for machines without a serial port to the host (Firecracker, vz).
//!
//! Only the host is served. With `vsock_loopback` any process of the guest can connect as well, and would be root here; it is
//! told by its address (man 7 vsock: a peer on the same machine is `VMADDR_CID_LOCAL` or the guest's own CID).

use std::{io, time::Duration};

use shed_protocol::AgentWord;
use shed_types::GuestPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::sleep,
};
pub(crate) use tokio_vsock::VsockStream;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener};

use crate::log;

/// Pause after a connection that could not be taken: this process has no descriptor left, and nothing tells when it has.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Where a host listens for words of the agent.
const WORDS: GuestPort = GuestPort::Health;

/// Every port of the agent, listening.
pub(crate) struct VsockPorts(Vec<(GuestPort, VsockListener)>);

impl VsockPorts {
    /// Listens on all of them.
    pub(crate) fn open() -> io::Result<Self> {
        let listen = |port: GuestPort| {
            let address = VsockAddr::new(VMADDR_CID_ANY, port.number());
            VsockListener::bind(address).map(|listener| (port, listener))
        };
        GuestPort::ALL.into_iter().map(listen).collect::<io::Result<_>>().map(Self)
    }

    /// Tells a host that waits for it that the agent can be reached. A host that does not wait is none that misses it.
    pub(crate) async fn tell_ready() {
        let _unheard = say(AgentWord::Ready).await;
    }

    /// Gives each connection of the host to `take`; ends when a port fails.
    pub(crate) async fn serve(
        self,
        take: impl Fn(GuestPort, VsockStream) + Clone + Send + Sync + 'static,
    ) -> io::Result<()> {
        let mut ports = JoinSet::new();
        for (port, listener) in self.0 {
            let take = take.clone();
            ports.spawn(async move { accept(&listener, |stream| take(port, stream)).await });
        }
        match ports.join_next().await {
            Some(Ok(result)) => result,
            // A panic there has ended the process.
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Ok(()),
        }
    }
}

/// Tells the host that the guest reboots, and returns when the host has heard it: what is still on its way when a machine
/// ends is lost.
///
/// # Errors
/// When no host listens.
pub(crate) async fn tell_reboot() -> io::Result<()> {
    let mut host = say(AgentWord::Reboot).await?;
    match host.read(&mut [0]).await {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        // The host closes the connection, one way or the other.
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn say(word: AgentWord) -> io::Result<VsockStream> {
    let mut host = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, WORDS.number())).await?;
    host.write_all(word.bytes()).await?;
    Ok(host)
}

async fn accept(listener: &VsockListener, take: impl Fn(VsockStream)) -> io::Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if peer.cid() == VMADDR_CID_HOST => take(stream),
            Ok((_stream, peer)) => log::info(&format!("refused a connection from vsock CID {}", peer.cid())),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) =>
            {
                sleep(NO_ROOM).await;
            }
            // The other end has gone before it was taken.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}
