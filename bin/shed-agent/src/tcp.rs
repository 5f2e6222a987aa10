//! The TCP proxy (port 1028, spec B.6): carries one connection to a port of the guest's loopback, never elsewhere.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use shed_protocol::{ConnectReply, connect, timeouts};
use shed_types::TcpPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    net::TcpStream,
    time::timeout,
};

use crate::serve::ByteStream;

/// How long a service on the loopback may take to accept (spec B.6).
const DIAL: Duration = Duration::from_secs(10);

/// Bytes on their way in each direction.
const BUFFER: usize = 64 * 1024;

/// Serves one stream: a line `CONNECT <port>`, its answer, then bytes both ways with half-close.
pub(crate) async fn serve(mut stream: impl ByteStream) {
    let dialled = match timeout(timeouts::CONNECT_LINE, read_port(&mut stream)).await {
        Ok(Ok(Some(port))) => dial(port).await.map_err(|error| error.to_string()),
        Ok(Ok(None)) => Err("expected CONNECT and a TCP port".to_owned()),
        Ok(Err(_)) | Err(_) => return,
    };
    let reply = match &dialled {
        Ok(_) => ConnectReply::Ok,
        Err(reason) => ConnectReply::Refused(reason.clone()),
    };
    if stream.write_all(reply.line().as_bytes()).await.is_err() {
        return;
    }
    match dialled {
        Ok(mut target) => {
            // An error is the end of either side, which dropping both tells the other.
            let _ended = copy_bidirectional_with_sizes(&mut stream, &mut target, BUFFER, BUFFER).await;
        }
        Err(_) => {
            let _gone = stream.shutdown().await;
        }
    }
}

/// Reads the line and not one byte more. Returns nothing when it is no good line.
async fn read_port(stream: &mut impl ByteStream) -> io::Result<Option<TcpPort>> {
    let mut line = Vec::with_capacity(connect::MAX_LINE);
    while line.len() < connect::MAX_LINE {
        match stream.read_u8().await? {
            b'\n' => return Ok(parse_line(&line)),
            byte => line.push(byte),
        }
    }
    Ok(None)
}

fn parse_line(line: &[u8]) -> Option<TcpPort> {
    str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?.parse().ok()
}

async fn dial(port: TcpPort) -> io::Result<TcpStream> {
    let connect = async |ip: IpAddr| {
        let stream = TcpStream::connect(SocketAddr::new(ip, port.get())).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let either = async {
        match connect(Ipv4Addr::LOCALHOST.into()).await {
            Ok(stream) => Ok(stream),
            // Some services listen on ::1 only; when that fails, too, the first error says more.
            Err(error) => connect(Ipv6Addr::LOCALHOST.into()).await.map_err(|_: io::Error| error),
        }
    };
    timeout(DIAL, either).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use tokio::{io::duplex, net::TcpListener};

    use super::*;

    async fn answer_of(mut host: tokio::io::DuplexStream) -> String {
        let mut line = String::new();
        host.read_to_string(&mut line).await.unwrap();
        line
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_ends_are_passed_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            let mut request = String::new();
            stream.read_to_string(&mut request).await.unwrap();
            stream.write_all(format!("got {request}").as_bytes()).await.unwrap();
        });
        let (mut host, guest) = duplex(4096);
        tokio::spawn(serve(guest));
        host.write_all(format!("CONNECT {port}\nhello").as_bytes()).await.unwrap();
        host.shutdown().await.unwrap();
        assert_eq!(answer_of(host).await, "OK\ngot hello");
        service.await.unwrap();
    }

    #[tokio::test]
    async fn a_port_without_a_listener_and_a_bad_line_are_refused() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        for line in
            [format!("CONNECT {free}\n"), "CONNECT 0\n".into(), "CONNECT 1 2\n".into(), "x".repeat(80)]
        {
            let (mut host, guest) = duplex(4096);
            tokio::spawn(serve(guest));
            host.write_all(line.as_bytes()).await.unwrap();
            let answer = answer_of(host).await;
            assert!(answer.starts_with("ERR ") && answer.ends_with('\n'), "{line:?} gave {answer:?}");
        }
    }
}
