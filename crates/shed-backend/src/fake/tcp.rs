//! The fake agent's TCP proxy: to services that a test has put there, where a guest has a loopback.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shed_link::{
    read_line,
    relay::{FarBreak, Rules, TcpSide, relay},
};
use shed_protocol::{ConnectReply, connect::parse_tcp_request};
use tokio::{
    io::{AsyncWriteExt, DuplexStream, copy, split},
    net::TcpStream,
};

use super::Machine;

/// What is behind a port of a fake guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FakeService {
    /// Sends back what comes, to the end.
    Echo,
    /// A service on this host, for a test that wants a real socket at that end.
    Host(SocketAddr),
    /// The agent says that it cannot be reached, in these very bytes behind `ERR `; a hostile guest says anything.
    Refuses(Vec<u8>),
    /// The agent answers with these very bytes and closes.
    Says(Vec<u8>),
    /// The agent answers nothing.
    Silent,
}

/// Serves one stream.
pub(super) async fn serve(mut stream: DuplexStream, machine: Arc<Machine>) {
    let Ok(line) = read_line(&mut stream).await else { return };
    let Ok(port) = parse_tcp_request(&line) else { return };
    let service = machine.world.host().services.get(&(machine.spec.shed.clone(), port)).cloned();
    // An error is a host that has gone, and means nothing to a guest.
    let _ended = match service {
        None => stream.write_all(ConnectReply::Refused("Connection refused".into()).line().as_bytes()).await,
        Some(FakeService::Refuses(reason)) => stream.write_all(&[b"ERR ", &reason[..], b"\n"].concat()).await,
        Some(FakeService::Says(bytes)) => stream.write_all(&bytes).await,
        Some(FakeService::Silent) => std::future::pending().await,
        Some(FakeService::Echo) => echo(stream).await,
        Some(FakeService::Host(address)) => to_host(stream, address).await,
    };
}

async fn echo(mut stream: DuplexStream) -> std::io::Result<()> {
    stream.write_all(ConnectReply::Ok.line().as_bytes()).await?;
    let (mut reader, mut writer) = split(stream);
    copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

async fn to_host(mut stream: DuplexStream, address: SocketAddr) -> std::io::Result<()> {
    let service = TcpStream::connect(address).await?;
    stream.write_all(ConnectReply::Ok.line().as_bytes()).await?;
    let rules = Rules { far_break: FarBreak::IsAnError, linger: Duration::ZERO };
    relay(stream, b"", TcpSide::new(&service), rules).await.map(drop).map_err(std::io::Error::other)
}
