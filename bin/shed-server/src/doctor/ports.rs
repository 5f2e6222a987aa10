//! The two ports: free, answered by a shed-server, or in use by somebody else.
//!
//! A port is tried by connecting to it. To listen on it would tell more, and could keep a server that starts at this very
//! moment from starting.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use shed_api::ServerInfo;
use shed_types::Finding;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{config::Config, report::Report};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest reply that is read, in bytes. That of a shed-server has some hundred.
const MAX_REPLY: u64 = 64 << 10;

/// What is at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Port {
    /// The system picks one at the start.
    Any,
    Free,
    /// A shed-server, which answers as this one.
    ShedServer(String),
    Other,
    Unknown(String),
}

/// Looks at both.
pub(super) async fn check(config: &Config, report: &mut Report) {
    let (mut http, server) = http_port(reached(config.listen), config.http_port).await;
    let mut ssh = ssh_port(reached(config.listen), config.ssh_port, server.as_ref()).await;
    // The server at the HTTP port is this one's when it has both ports; one with another SSH port would be in its way.
    if let (Port::ShedServer(_), Some(server)) = (&http, &server)
        && server.ssh_port != config.ssh_port
        && config.ssh_port != 0
    {
        http = Port::Other;
        ssh = if ssh == Port::Free { Port::Free } else { Port::Other };
    }
    report.add(judge("HTTP port", "http_port", config.http_port, http));
    report.add(judge("SSH port", "ssh_port", config.ssh_port, ssh));
}

/// Returns the address at which what listens on this one is reached from here.
fn reached(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

async fn http_port(host: IpAddr, port: u16) -> (Port, Option<ServerInfo>) {
    if port == 0 {
        return (Port::Any, None);
    }
    match timeout(PATIENCE, ask_info(SocketAddr::new(host, port))).await {
        Ok(Ok(Some(info))) => {
            (Port::ShedServer(format!("{} ({}, {})", info.name, info.version, info.backend)), Some(info))
        }
        Ok(Ok(None)) | Err(_) => (Port::Other, None),
        Ok(Err(error)) => (refused(&error), None),
    }
}

async fn ssh_port(host: IpAddr, port: u16, server: Option<&ServerInfo>) -> Port {
    if port == 0 {
        return Port::Any;
    }
    match timeout(PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(_stream)) if server.is_some_and(|server| server.ssh_port == port) => {
            Port::ShedServer("the same".to_owned())
        }
        Ok(Ok(_)) | Err(_) => Port::Other,
        Ok(Err(error)) => refused(&error),
    }
}

fn refused(error: &io::Error) -> Port {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Port::Free,
        _other => Port::Unknown(error.to_string()),
    }
}

/// Asks who answers; nothing when it is no shed-server.
async fn ask_info(address: SocketAddr) -> io::Result<Option<ServerInfo>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /api/info HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut reply = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        (&mut stream).take(MAX_REPLY).read_to_end(&mut reply).await
    };
    // Whoever breaks off is there all the same.
    let _broken_off = exchange.await;
    let body = reply.windows(4).position(|window| window == b"\r\n\r\n").map(|end| &reply[end + 4..]);
    Ok(body.and_then(|body| serde_json::from_slice(body).ok()))
}

fn judge(item: &'static str, key: &str, port: u16, found: Port) -> Finding {
    match found {
        Port::Any => Finding::pass(item, "the system picks a free one"),
        Port::Free => Finding::pass(item, format!("{port} is free")),
        Port::ShedServer(who) => Finding::pass(item, format!("a shed-server answers on {port}: {who}")),
        Port::Other => Finding::warn(item, format!("something else answers on {port}"))
            .remedy(format!("`ss -ltnp` shows what; end it, or set another {key} in server.yaml")),
        Port::Unknown(problem) => Finding::warn(item, format!("{port} cannot be looked at: {problem}"))
            .remedy("see whether `listen` in server.yaml is an address of this host"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use shed_types::Verdict;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn every_state_has_its_verdict() {
        let verdict = |found| judge("HTTP port", "http_port", 80, found).verdict;
        assert_eq!(verdict(Port::Any), Verdict::Pass);
        assert_eq!(verdict(Port::Free), Verdict::Pass);
        assert_eq!(verdict(Port::ShedServer("x".into())), Verdict::Pass);
        assert_eq!(verdict(Port::Other), Verdict::Warn);
        assert_eq!(verdict(Port::Unknown("x".into())), Verdict::Warn);
    }

    #[tokio::test]
    async fn whoever_answers_with_something_else_is_somebody_else() {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let replies: [&[u8]; 4] = [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n\r\n{}", &[0xff; 100_000]];
        for reply in replies {
            let answer = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _gone = stream.write_all(reply).await;
            };
            let ((found, _), ()) = tokio::join!(http_port(HOST, port), answer);
            assert_eq!(found, Port::Other, "{}", reply.len());
        }
        drop(listener);
        assert_eq!(http_port(HOST, port).await.0, Port::Free);
        assert_eq!(ssh_port(HOST, port, None).await, Port::Free);
    }

    #[test]
    fn a_server_that_listens_on_all_addresses_is_reached_on_the_loopback() {
        assert_eq!(reached("0.0.0.0".parse().unwrap()).to_string(), "127.0.0.1");
        assert_eq!(reached("::".parse().unwrap()).to_string(), "::1");
        assert_eq!(reached("10.1.2.3".parse().unwrap()).to_string(), "10.1.2.3");
    }
}
