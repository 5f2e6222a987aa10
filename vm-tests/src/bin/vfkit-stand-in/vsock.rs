//! The guest's vsock ports on Unix sockets of the host, one a port, as vfkit has them.
//!
//! Called when the machine runs. Between a socket of the host and the vsock device the bytes go as they come; what the
//! device wants to hear first (`CONNECT`, as Firecracker's) neither end sees. What vfkit does is done here too, oddities
//! included (its proxy is inetaf/tcpproxy, its connection to the guest a `VirtioSocketConnection` of Code-Hex/vz, which
//! cannot close one direction):
//! - A connection to a port on which the guest does not listen is taken, then closed.
//! - The host is told when the guest has said all. The guest is not told when the host has, nor when the host is gone: it
//!   learns of it when it has closed its own end, or sent something that the host no longer takes.
//! - A port whose socket cannot be made, for example because a file is there already, is missing; the machine runs.

use anyhow::{Context, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::net::Shutdown;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    devices::{Direction, Vsock},
    log::Log,
    qemu::Sockets,
    urls::{dialled_socket, made_socket},
};

/// Longest answer of the device in bytes: `OK `, a number of 32 bits, and the newline.
const ANSWER_MAX: usize = 16;

/// A port that can be reached. Its socket goes with it.
#[derive(Debug)]
pub(crate) struct Exposed {
    socket: Utf8PathBuf,
    _task: AbortOnDropHandle<()>,
}

impl Drop for Exposed {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _gone = std::fs::remove_file(&self.socket);
    }
}

/// Makes one port reachable.
///
/// # Errors
/// When its socket cannot be made.
pub(crate) fn expose(vsock: &Vsock, sockets: &Sockets, log: Log) -> anyhow::Result<Exposed> {
    let (port, url) = (vsock.port, &vsock.socket_url);
    let socket = match vsock.direction {
        Direction::ToGuest => made_socket(url)?.into(),
        Direction::ToHost => sockets.of_host_port(port),
    };
    let listener = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {socket}"))?;
    let (vsock, sockets) = (vsock.clone(), sockets.clone());
    let task = async move {
        // A listener that fails has no more to say.
        while let Ok((taken, _)) = listener.accept().await {
            let (vsock, sockets) = (vsock.clone(), sockets.clone());
            tokio::spawn(async move {
                let ends = match vsock.direction {
                    Direction::ToGuest => to_guest(&sockets.vsock(), port).await.map(|guest| (taken, guest)),
                    Direction::ToHost => to_host(&vsock.socket_url).await.map(|host| (host, taken)),
                };
                match ends {
                    Ok((host, guest)) => relay(host, guest).await,
                    Err(error) => log.info(&format!("port {port}: {error:#}")),
                }
            });
        }
    };
    Ok(Exposed { socket, _task: AbortOnDropHandle::new(tokio::spawn(task)) })
}

/// Opens a connection to a port of the guest. Waits for the answer without end, as vfkit does.
async fn to_guest(device: &Utf8Path, port: u32) -> anyhow::Result<UnixStream> {
    let mut guest = UnixStream::connect(device).await.context("the vsock device")?;
    guest.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    // What follows the line is the guest's.
    while answer.last() != Some(&b'\n') && answer.len() < ANSWER_MAX {
        answer.push(guest.read_u8().await.context("the guest does not listen")?);
    }
    if !answer.starts_with(b"OK ") || !answer.ends_with(b"\n") {
        bail!("the vsock device said {:?}", String::from_utf8_lossy(&answer));
    }
    Ok(guest)
}

async fn to_host(socket_url: &str) -> anyhow::Result<UnixStream> {
    let path = dialled_socket(socket_url)?;
    UnixStream::connect(&path).await.with_context(|| format!("cannot connect to {path}"))
}

/// Passes bytes both ways until both have said all.
async fn relay(mut host: UnixStream, mut guest: UnixStream) {
    let (mut from_host, mut into_host) = host.split();
    let (mut from_guest, mut into_guest) = guest.split();
    // Either direction may break at any time; the other one finds out by itself.
    let up = async {
        let _ended = tokio::io::copy(&mut from_host, &mut into_guest).await;
        let _gone = rustix::net::shutdown(from_host.as_ref(), Shutdown::Read);
    };
    let down = async {
        let _ended = tokio::io::copy(&mut from_guest, &mut into_host).await;
        let _gone = into_host.shutdown().await;
    };
    tokio::join!(up, down);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Level;

    /// A device that takes `CONNECT 7` and refuses any other port; then it says all it hears in capitals.
    async fn device(path: Utf8PathBuf) {
        let listener = UnixListener::bind(&path).unwrap();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 10];
            stream.read_exact(&mut asked).await.unwrap();
            if &asked != b"CONNECT 7\n" {
                continue;
            }
            stream.write_all(b"OK 1073741824\nhello ").await.unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(word.to_ascii_uppercase().as_slice()).await.unwrap();
        }
    }

    fn sockets() -> (tempfile::TempDir, Sockets) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().to_owned();
        (dir, Sockets { dir: path })
    }

    fn port(number: u32, socket: &Utf8Path, direction: Direction) -> Vsock {
        Vsock { port: number, socket_url: socket.to_string(), direction }
    }

    #[tokio::test]
    async fn the_host_hears_the_guest_and_nothing_else() {
        let (dir, sockets) = sockets();
        let _device = AbortOnDropHandle::new(tokio::spawn(device(sockets.vsock())));
        tokio::task::yield_now().await;
        for (number, said, answer) in [(7, "word", "hello WORD"), (8, "", "")] {
            let socket = sockets.dir.join("port.sock");
            let exposed =
                expose(&port(number, &socket, Direction::ToGuest), &sockets, Log(Level::Error)).unwrap();
            let mut host = UnixStream::connect(&socket).await.unwrap();
            host.write_all(said.as_bytes()).await.unwrap();
            let mut heard = String::new();
            host.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, answer);
            drop(exposed);
            assert!(!socket.exists());
        }
        drop(dir);
    }

    #[tokio::test]
    async fn the_guest_reaches_the_socket_of_the_host() {
        let (dir, sockets) = sockets();
        let socket = sockets.dir.join("host sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let _exposed = expose(&port(9, &socket, Direction::ToHost), &sockets, Log(Level::Error)).unwrap();
        let mut guest = UnixStream::connect(sockets.of_host_port(9)).await.unwrap();
        let (mut host, _) = listener.accept().await.unwrap();
        guest.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        host.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
        // The host is told that the guest has said all, and may go on itself.
        guest.shutdown().await.unwrap();
        assert_eq!(host.read(&mut heard).await.unwrap(), 0);
        host.write_all(b"pong").await.unwrap();
        guest.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
        drop(dir);
    }

    #[tokio::test]
    async fn the_guest_learns_that_the_host_is_gone_when_it_speaks() {
        let (mut host, here) = UnixStream::pair().unwrap();
        let (there, mut guest) = UnixStream::pair().unwrap();
        let relayed = tokio::spawn(relay(here, there));
        host.write_all(b"last words").await.unwrap();
        drop(host);
        let mut heard = [0; 10];
        guest.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"last words");
        // The relay has seen the end of the host, whose bytes came before it, and keeps it for itself.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(guest.try_read(&mut heard).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        guest.write_all(b"anybody there?").await.unwrap();
        assert_eq!(guest.read(&mut heard).await.unwrap(), 0);
        relayed.await.unwrap();
    }

    #[tokio::test]
    async fn a_file_in_the_way_stays_and_the_port_is_missing() {
        let (dir, sockets) = sockets();
        let socket = sockets.dir.join("taken");
        std::fs::write(&socket, "mine").unwrap();
        let error = expose(&port(7, &socket, Direction::ToGuest), &sockets, Log(Level::Error)).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(std::fs::read_to_string(&socket).unwrap(), "mine");
        drop(dir);
    }
}
