//! `GET /api/sheds/{name}/connect/{port}`: refusals in their order, raw bytes after the upgrade, and nothing left behind.

use std::{net::SocketAddr, time::Duration};

use shed_api::ErrorCode;
use shed_backend::fake::FakeService;
use shed_client::TcpTunnel;
use shed_testkit::wait_for;
use shed_types::{ShedName, TcpPort};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    api::Api,
    common::{PATIENCE, RawReply, connect, parse, raw, send, send_with},
};

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: shed-tcp\r\n";

fn port(number: u16) -> TcpPort {
    TcpPort::new(number).unwrap()
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// A running shed with an echo on port 7 and a service of the test's own on port 80.
struct Guest {
    api: Api,
    name: ShedName,
    service: TcpListener,
}

impl Guest {
    async fn new() -> Self {
        let api = Api::new().await;
        let name = api.create("api").await;
        let service = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        api.world.set_service(&name, port(7), FakeService::Echo);
        api.world.set_service(&name, port(80), FakeService::Host(service.local_addr().unwrap()));
        Self { api, name, service }
    }

    async fn tunnel(&self, number: u16) -> TcpTunnel {
        self.api.client.connect(&self.name, port(number)).await.unwrap()
    }

    /// Both ends of a tunnel to the service of the test's own.
    async fn both_ends(&self) -> (TcpTunnel, TcpStream) {
        let (tunnel, service) = tokio::join!(self.tunnel(80), self.service.accept());
        (tunnel, service.unwrap().0)
    }

    async fn ask(&self, path: &str, headers: &str) -> RawReply {
        send_with(self.api.port, "GET", path, headers, "").await
    }
}

/// Sends everything and the end, and returns what comes back.
async fn through(stream: impl AsyncRead + AsyncWrite + Send + 'static, data: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = tokio::spawn(async move {
        writer.write_all(&data).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    within("all of the answer", reader.read_to_end(&mut back)).await.unwrap();
    send.await.unwrap();
    back
}

#[tokio::test]
async fn everything_is_refused_before_the_upgrade_and_in_its_order() {
    let guest = Guest::new().await;
    let error = async |path: &str, headers: &str| guest.ask(path, headers).await.error();
    // A bad port comes before a bad name, missing headers and a shed that is not there.
    for bad in ["0", "00", "080", "65536", "-1", "+80", "80x", "%20", "1%2080", "99999999999999999999"] {
        let path = format!("/api/sheds/No%20Name/connect/{bad}");
        assert_eq!(error(&path, "").await, (400, "INVALID_PORT".into()), "{bad}");
        assert_eq!(error(&path, UPGRADE).await, (400, "INVALID_PORT".into()), "{bad}");
    }
    assert_eq!(error("/api/sheds/No%20Name/connect/80", "").await, (400, "INVALID_SHED_NAME".into()));
    for headers in [
        "",
        "upgrade: shed-tcp\r\n",
        "connection: Upgrade\r\n",
        "connection: Upgrade\r\nupgrade: shed-exec\r\n",
        "connection: Upgrade\r\nupgrade: websocket\r\n",
    ] {
        let reply = guest.ask("/api/sheds/none/connect/80", headers).await;
        assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()), "{headers}");
        assert!(reply.message().contains("`Upgrade: shed-tcp`"), "{}", reply.message());
    }
    assert_eq!(error("/api/sheds/none/connect/80", UPGRADE).await, (404, "SHED_NOT_FOUND".into()));

    let closed = guest.ask("/api/sheds/api/connect/81", UPGRADE).await;
    assert_eq!(closed.error(), (502, "CONNECT_FAILED".into()));
    let message = closed.message();
    assert!(message.contains("`api`") && message.contains("81") && message.contains("refused"), "{message}");

    guest.api.client.stop(&guest.name).await.unwrap();
    let stopped = guest.ask("/api/sheds/api/connect/81", UPGRADE).await;
    assert_eq!(stopped.error(), (503, "SHED_NOT_RUNNING".into()));
    assert!(stopped.message().contains("shed start api"), "{}", stopped.message());
}

#[tokio::test]
async fn a_connection_that_cannot_leave_http_is_told_so() {
    let guest = Guest::new().await;
    for (shed, error) in [("api", (500, "HIJACK_UNSUPPORTED")), ("none", (404, "SHED_NOT_FOUND"))] {
        let request = format!("GET /api/sheds/{shed}/connect/7 HTTP/1.0\r\nhost: x\r\n{UPGRADE}\r\n");
        assert_eq!(raw(guest.api.port, request).await.error(), (error.0, error.1.into()));
    }
    let request =
        "GET /api/sheds/api/exec HTTP/1.0\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: shed-exec\r\n\r\n";
    assert_eq!(raw(guest.api.port, request).await.error(), (500, "HIJACK_UNSUPPORTED".into()));
}

#[tokio::test]
async fn a_request_with_a_body_is_no_upgrade() {
    let guest = Guest::new().await;
    let reply = send_with(guest.api.port, "GET", "/api/sheds/api/connect/7", UPGRADE, "body").await;
    assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()));
}

#[tokio::test]
async fn what_a_guest_says_is_cleaned_and_bounded() {
    let guest = Guest::new().await;
    let refuses = |words: &[u8]| FakeService::Refuses(words.to_vec());
    for (service, part) in [
        (refuses(b"\x1b[31mevil\x07 \xff"), "?[31mevil? ?"),
        (refuses(b""), "does not say why"),
        (FakeService::Says(b"HTTP/1.1 200 OK\n".to_vec()), "another protocol"),
        (FakeService::Says(b"ERR no line feed".to_vec()), "broke"),
        (FakeService::Says(vec![b'x'; 10_000]), "broke"),
        (FakeService::Says(Vec::new()), "broke"),
    ] {
        guest.api.world.set_service(&guest.name, port(99), service.clone());
        let reply = guest.ask("/api/sheds/api/connect/99", UPGRADE).await;
        assert_eq!(reply.error(), (502, "CONNECT_FAILED".into()), "{service:?}");
        let message = reply.message();
        assert!(message.contains(part), "{service:?}: {message}");
        assert!(message.len() < 500 && message.chars().all(|c| !c.is_control()), "{message:?}");
    }
}

/// Takes the thirteen seconds that a guest has for its answer.
#[tokio::test]
async fn an_agent_that_never_answers_is_a_failed_connection() {
    let guest = Guest::new().await;
    guest.api.world.set_service(&guest.name, port(99), FakeService::Silent);
    let error = guest.api.client.connect(&guest.name, port(99)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ConnectFailed), "{error}");
    assert!(error.to_string().contains("99"), "{error}");
}

#[tokio::test]
async fn bytes_behind_the_headers_are_not_lost() {
    let guest = Guest::new().await;
    let mut stream = connect(guest.api.port).await;
    let early = "early \0\u{ff} bytes";
    let request = format!("GET /api/sheds/api/connect/7 HTTP/1.1\r\nhost: x\r\n{UPGRADE}\r\n{early}");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = Vec::new();
    within("the echo", stream.read_to_end(&mut reply)).await.unwrap();
    let reply = parse(&reply);
    assert_eq!(reply.status, 101);
    assert_eq!(reply.headers["upgrade"], "shed-tcp");
    assert_eq!(reply.headers["connection"].to_lowercase(), "upgrade");
    assert_eq!(reply.body, early);
}

#[tokio::test]
async fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let guest = Guest::new().await;
    let (mut tunnel, mut service) = guest.both_ends().await;
    let mut text = String::new();
    // The client first.
    tunnel.write_all(b"question").await.unwrap();
    tunnel.shutdown().await.unwrap();
    within("the client's end", service.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "question");
    service.write_all(b"answer").await.unwrap();
    drop(service);
    text.clear();
    within("the service's end", tunnel.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "answer");
    // The service first.
    let (mut tunnel, mut service) = guest.both_ends().await;
    service.write_all(b"greeting").await.unwrap();
    service.shutdown().await.unwrap();
    text.clear();
    within("the service's end", tunnel.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "greeting");
    tunnel.write_all(b"reply").await.unwrap();
    drop(tunnel);
    text.clear();
    within("the client's end", service.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "reply");
}

#[tokio::test]
async fn bulk_goes_both_ways_at_once_unchanged() {
    let guest = Guest::new().await;
    let data: Vec<u8> = (0u32..262_144).flat_map(u32::to_le_bytes).collect();
    assert!(through(guest.tunnel(7).await, data.clone()).await == data, "through the echo");
    let (tunnel, service) = guest.both_ends().await;
    let other: Vec<u8> = data.iter().rev().copied().collect();
    let (at_client, at_service) =
        tokio::join!(through(tunnel, data.clone()), through(service, other.clone()));
    assert!(at_service == data && at_client == other);
}

#[tokio::test]
async fn a_client_that_resets_its_connection_ends_the_one_in_the_guest() {
    let guest = Guest::new().await;
    let (tunnel, mut service) = guest.both_ends().await;
    let (early, stream) = tunnel.into_parts();
    assert!(early.is_empty());
    // Closing with unread bytes resets.
    service.write_all(b"unread").await.unwrap();
    stream.readable().await.unwrap();
    drop(stream);
    // The fake's pipe knows no resets; what counts is that the service is not left waiting.
    let end = within("the end of the service's connection", service.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_machine_that_ends_cuts_its_streams() {
    let guest = Guest::new().await;
    let (mut tunnel, mut service) = guest.both_ends().await;
    tunnel.write_all(b"x").await.unwrap();
    service.read_exact(&mut [0; 1]).await.unwrap();
    guest.api.world.crash(&guest.name);
    let end = within("the end of the tunnel", tunnel.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// Takes the five seconds that streams have when the server ends.
#[tokio::test]
async fn a_tunnel_does_not_keep_the_server_from_ending_and_is_cut_not_closed() {
    let mut guest = Guest::new().await;
    let (mut tunnel, mut service) = guest.both_ends().await;
    tunnel.write_all(b"x").await.unwrap();
    service.read_exact(&mut [0; 1]).await.unwrap();
    guest.api.end().await;
    let end = within("the end of the tunnel", tunnel.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let end = within("the end of the service's connection", service.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn an_idle_tunnel_is_not_closed_when_the_headers_time_limit_has_passed() {
    let guest = Guest::new().await;
    let mut tunnel = guest.tunnel(7).await;
    // The limit for the next request's headers is 10 s; a connection that has left HTTP has none.
    tokio::time::sleep(Duration::from_secs(12)).await;
    tunnel.write_all(b"still here").await.unwrap();
    let mut back = [0; 10];
    within("the echo", tunnel.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"still here");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/dev/fd").unwrap().count()
}

/// Server, clients and services are all in this process, so nothing that any of them forgets goes unnoticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tunnels_leave_no_descriptor() {
    let guest = Guest::new().await;
    // Whatever is opened once is open now.
    drop(guest.both_ends().await);
    let settled = async |what: &str, most: usize| {
        wait_for(what, PATIENCE, || std::future::ready(open_descriptors() <= most)).await.unwrap();
    };
    // The first connection may still be on its way out; what is left of it is not counted as growth.
    assert_eq!(send(guest.api.port, "GET", "/api/info", "").await.status, 200);
    wait_for("the first tunnel to be gone", PATIENCE, || async {
        let before = open_descriptors();
        tokio::time::sleep(Duration::from_millis(50)).await;
        before == open_descriptors()
    })
    .await
    .unwrap();
    let before = open_descriptors();
    for round in 0..20_u32 {
        let mut held = Vec::new();
        for number in 0..10_u32 {
            let (mut tunnel, mut service) = guest.both_ends().await;
            // Every way to go.
            match (round + number) % 4 {
                0 => drop(tunnel),
                1 => drop(service),
                2 => {
                    tunnel.write_all(b"x").await.unwrap();
                    service.write_all(b"y").await.unwrap();
                }
                _ => held.push((tunnel, service)),
            }
        }
        // And those that never came to be.
        assert!(guest.api.client.connect(&guest.name, port(81)).await.is_err());
    }
    settled("every descriptor to be closed", before).await;
}

/// A few hundred silent streams to one shed, and the API answers beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tunnels_at_once_are_no_limit_to_others() {
    let guest = Guest::new().await;
    let mut tunnels = Vec::new();
    for _ in 0..300 {
        tunnels.push(guest.tunnel(7).await);
    }
    assert_eq!(guest.api.client.list().await.unwrap().len(), 1);
    for tunnel in &mut tunnels {
        tunnel.write_all(b"?").await.unwrap();
    }
    for tunnel in &mut tunnels {
        assert_eq!(within("the echo", tunnel.read_u8()).await.unwrap(), b'?');
    }
}
