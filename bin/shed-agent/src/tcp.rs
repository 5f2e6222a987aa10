//! The TCP proxy (port 1028, spec B.6): carries one connection to a port of the guest's loopback, never elsewhere.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use shed_link::{
    read_line,
    relay::{Broken, FarBreak, Rules, TcpSide, relay},
};
use shed_protocol::{ConnectReply, connect::parse_tcp_request, timeouts};
use shed_types::TcpPort;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::serve::ByteStream;

/// A service that breaks off has not said all; and the mux reads on for a while what the host still sends to one that
/// has, so there is nothing to wait for here.
const RULES: Rules = Rules { far_break: FarBreak::IsAnError, linger: Duration::ZERO };

/// Serves one stream: a line `CONNECT <port>`, its answer, then bytes both ways with half-close.
///
/// A host that breaks off resets the service's connection, and a service that breaks off resets the stream to the
/// host: an upload or answer that was cut short never looks complete.
pub(crate) async fn serve(mut stream: impl ByteStream) {
    let dialled = match timeout(timeouts::CONNECT_LINE, read_line(&mut stream)).await {
        Ok(Ok(line)) => match parse_tcp_request(&line) {
            Ok(port) => dial(port).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
        // The host has gone, or says nothing.
        Ok(Err(_)) | Err(_) => return,
    };
    let reply = match &dialled {
        Ok(_) => ConnectReply::Ok,
        Err(reason) => ConnectReply::Refused(reason.clone()),
    };
    if stream.write_all(reply.line().as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    match dialled {
        Ok(target) => {
            let service = TcpSide::new(&target);
            match relay(&mut stream, b"", service, RULES).await {
                Err(Broken::Near(_)) => service.break_off(),
                // Dropping the stream before it was shut down resets it.
                Ok(_) | Err(Broken::Far(_)) => {}
            }
        }
        Err(_) => {
            let _gone = stream.shutdown().await;
        }
    }
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
    timeout(timeouts::TCP_DIAL, either).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use shed_link::{MuxStream, Synced, mux};
    use shed_types::GuestPort;
    use tokio::{
        io::{AsyncReadExt, DuplexStream, duplex},
        net::TcpListener,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn answer_of(mut host: DuplexStream) -> String {
        let mut line = String::new();
        host.read_to_string(&mut line).await.unwrap();
        line
    }

    /// Opens a stream through a real mux, whose other end this agent serves, to a listener; returns both ends.
    async fn through_a_mux(listener: &TcpListener) -> (MuxStream, TcpStream) {
        let (ours, theirs) = duplex(64 * 1024);
        let (host, driver) = mux::host(Synced::fresh(ours));
        tokio::spawn(driver);
        let (mut acceptor, driver) = mux::guest(Synced::fresh(theirs));
        tokio::spawn(driver);
        tokio::spawn(async move {
            let stream = acceptor.accept().await.unwrap().accept().await.unwrap();
            serve(stream).await;
        });
        let mut stream = host.open(GuestPort::Tcp).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.unwrap();
        assert_eq!(read_line(&mut stream).await.unwrap(), b"OK");
        (stream, listener.accept().await.unwrap().0)
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
    async fn a_service_on_the_other_loopback_address_is_found() {
        let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
        let (_stream, service) = through_a_mux(&listener).await;
        assert!(service.peer_addr().unwrap().ip().is_loopback());
    }

    #[tokio::test]
    async fn a_service_that_ends_first_is_still_written_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut stream, mut service) = through_a_mux(&listener).await;
        service.write_all(b"first").await.unwrap();
        service.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "first");
        stream.write_all(b"second").await.unwrap();
        stream.shutdown().await.unwrap();
        text.clear();
        service.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "second");
    }

    #[tokio::test]
    async fn a_service_that_breaks_off_breaks_the_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut stream, service) = through_a_mux(&listener).await;
        TcpSide::new(&service).break_off();
        drop(service);
        let error = timeout(SOON, stream.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_host_that_breaks_off_breaks_the_services_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut stream, mut service) = through_a_mux(&listener).await;
        stream.write_all(b"half an upl").await.unwrap();
        service.read_exact(&mut [0; 11]).await.unwrap();
        drop(stream);
        let error = timeout(SOON, service.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
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
