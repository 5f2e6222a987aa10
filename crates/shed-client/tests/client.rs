//! The client against servers that say exactly what a test tells them to, byte by byte.

use std::time::Duration;

use shed_api::{CreateEvent, CreateShedRequest, ErrorCode};
use shed_client::{Client, ClientError, PruneQuery, ServerAddress, Timeouts};
use shed_protocol::{ExitStatus, Frame, FrameKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const SHED: &str = r#"{"name":"api","status":"running","created_at":"2026-01-20T10:30:00Z"}"#;

/// Accepts one connection, reads one request and hands the stream and the headers to the script.
async fn server<F, T>(script: impl FnOnce(TcpStream, String) -> F + Send + 'static) -> (Client, JoinHandle<T>)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        // Closing a socket with unread bytes resets it, and takes away what the client has not read yet.
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |n| n.parse().unwrap());
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        script(stream, head).await
    });
    (client(port), task)
}

fn client(port: u16) -> Client {
    let timeouts = Timeouts {
        reply: Duration::from_secs(10),
        silence: Duration::from_millis(300),
        ..Timeouts::default()
    };
    Client::new(format!("127.0.0.1:{port}").parse::<ServerAddress>().unwrap(), timeouts)
}

/// Answers with the given text and returns what was asked.
async fn answering(text: String) -> (Client, JoinHandle<String>) {
    server(|mut stream, head| async move {
        stream.write_all(text.as_bytes()).await.unwrap();
        head
    })
    .await
}

fn json(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn api() -> shed_types::ShedName {
    "api".parse().unwrap()
}

fn request() -> CreateShedRequest {
    CreateShedRequest { name: "api".into(), ..CreateShedRequest::default() }
}

#[tokio::test]
async fn a_get_asks_for_the_path_and_reads_the_shed() {
    let (client, asked) = answering(json("200 OK", SHED)).await;
    assert_eq!(client.get(&api()).await.unwrap().name, "api");
    let asked = asked.await.unwrap().to_lowercase();
    assert!(asked.starts_with("get /api/sheds/api http/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {}\r\n", client.server())), "{asked}");
}

#[tokio::test]
async fn an_error_of_the_server_keeps_status_code_and_message() {
    let body = r#"{"error":{"code":"SHED_NOT_FOUND","message":"there is no shed named `api`"}}"#;
    let (client, _server) = answering(json("404 Not Found", body)).await;
    let error = client.delete(&api()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ShedNotFound));
    assert_eq!(error.to_string(), "there is no shed named `api`");

    let (client, _server) =
        answering(json("418 I'm a teapot", r#"{"error":{"code":"NEW","message":"m"}}"#)).await;
    let error = client.get(&api()).await.unwrap_err();
    assert!(matches!(&error, ClientError::Api { status: 418, code, .. } if code == "NEW"), "{error:?}");
    assert_eq!(error.code(), None);
}

#[tokio::test]
async fn something_else_than_a_shed_server_is_told_from_an_error() {
    for text in [json("404 Not Found", "<html>"), json("200 OK", "[]"), json("204 No Content", "")] {
        let (client, _server) = answering(text).await;
        let error = client.list().await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    }
    let (client, _server) = answering("SSH-2.0-x\r\n".to_owned()).await;
    assert!(matches!(client.list().await.unwrap_err(), ClientError::Broken { .. }));
    let (client, _server) = answering(json("200 OK", SHED)[..80].to_owned()).await;
    assert!(matches!(client.get(&api()).await.unwrap_err(), ClientError::Broken { .. }));
}

#[tokio::test]
async fn a_closed_port_is_unreachable_and_names_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = client(port).info().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&port.to_string()));
}

#[tokio::test]
async fn a_server_that_says_nothing_times_out() {
    let (mut client, server) = server(|mut stream, _| async move { stream.read_u8().await.is_err() }).await;
    client = Client::new(
        client.server().clone(),
        Timeouts { reply: Duration::from_millis(50), ..Timeouts::default() },
    );
    let error = client.list().await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    assert!(server.await.unwrap(), "the connection is closed after the time-out");
}

#[tokio::test]
async fn events_of_a_create_come_one_by_one_and_end_with_the_shed() {
    let (client, asked) = server(|mut stream, head| async move {
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
             event: progress\ndata: {{\"message\":\"m\",\"phase\":\"vm\"}}\n\n: alive\n\nevent: complete\ndata: {SHED}\n\n"
        );
        for byte in text.as_bytes() {
            stream.write_u8(*byte).await.unwrap();
        }
        head
    })
    .await;
    let mut events = client.create_streaming(&request()).await.unwrap();
    let Some(Ok(CreateEvent::Progress(progress))) = events.next().await else {
        panic!("progress comes first")
    };
    assert_eq!((progress.message.as_str(), progress.phase.as_deref()), ("m", Some("vm")));
    let Some(Ok(CreateEvent::Complete(shed))) = events.next().await else { panic!("then the shed") };
    assert_eq!(shed.name, "api");
    assert!(events.next().await.is_none());
    assert!(asked.await.unwrap().to_lowercase().contains("accept: text/event-stream\r\n"));
}

#[tokio::test]
async fn a_stream_that_ends_without_a_result_is_an_error_and_so_is_silence() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: hi\n\n";
    let (client, _server) = answering(head.to_owned()).await;
    let mut events = client.create_streaming(&request()).await.unwrap();
    assert!(matches!(events.next().await, Some(Err(ClientError::Protocol { .. }))));
    assert!(events.next().await.is_none());

    let (client, server) = server(move |mut stream, _| async move {
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.map(|_| ())
    })
    .await;
    let mut events = client.create_streaming(&request()).await.unwrap();
    assert!(matches!(events.next().await, Some(Err(ClientError::TimedOut { .. }))));
    drop(events);
    let _closed = server.await.unwrap();
}

#[tokio::test]
async fn a_dropped_create_closes_its_connection() {
    let (client, server) = server(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        // Ends when the client closes; an error is a reset, which is a close as well.
        drop(stream.read_to_end(&mut rest).await);
    })
    .await;
    let events = client.create_streaming(&request()).await.unwrap();
    assert!(!server.is_finished());
    drop(events);
    tokio::time::timeout(Duration::from_secs(10), server).await.expect("the server sees the close").unwrap();
}

#[tokio::test]
async fn an_upgrade_loses_no_byte_that_came_with_the_headers() {
    let (client, asked) = server(|mut stream, head| async move {
        let mut text =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shed-exec\r\n\r\n".to_vec();
        text.extend([0x05, 0, 0, 0, 2, b'h', b'i']);
        stream.write_all(&text).await.unwrap();
        let mut frame = [0; 5];
        stream.read_exact(&mut frame).await.unwrap();
        stream.write_all(b"\x04\0\0\0\x0a{\"code\":7}").await.unwrap();
        (head, frame)
    })
    .await;
    let mut stream = client.exec(&api()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), Frame::new(FrameKind::Data, "hi".into()));
    stream.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
    let status: ExitStatus = stream.next().await.unwrap().unwrap().parse().unwrap();
    assert_eq!(status, ExitStatus::exited(7));
    assert!(stream.next().await.is_none());
    let (head, frame) = asked.await.unwrap();
    assert_eq!(frame, [6, 0, 0, 0, 0]);
    assert!(head.to_lowercase().contains("upgrade: shed-exec\r\n"), "{head}");
}

#[tokio::test]
async fn a_tunnel_begins_with_the_bytes_behind_the_headers_and_is_half_closed_by_shutdown() {
    let (client, asked) = server(|mut stream, head| async move {
        let text =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shed-tcp\r\n\r\n220 hel";
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        stream.write_all(b"lo").await.unwrap();
        (head, heard)
    })
    .await;
    let mut tunnel = client.connect(&api(), "5432".parse().unwrap()).await.unwrap();
    let mut first = [0; 2];
    tunnel.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"22");
    tunnel.write_all(b"over").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut rest = String::new();
    tunnel.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "0 hello");
    let (head, heard) = asked.await.unwrap();
    assert_eq!(heard, "over");
    let head = head.to_lowercase();
    assert!(head.starts_with("get /api/sheds/api/connect/5432 http/1.1\r\n"), "{head}");
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: shed-tcp\r\n"), "{head}");
}

#[tokio::test]
async fn a_refused_upgrade_is_the_servers_error() {
    let body = r#"{"error":{"code":"SHED_NOT_RUNNING","message":"m"}}"#;
    let (client, _server) = answering(json("503 Service Unavailable", body)).await;
    assert_eq!(client.exec(&api()).await.unwrap_err().code(), Some(ErrorCode::ShedNotRunning));
    let (client, _server) =
        answering(json("502 Bad Gateway", &body.replace("SHED_NOT_RUNNING", "CONNECT_FAILED"))).await;
    let refused = client.connect(&api(), "80".parse().unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ConnectFailed));
    let (client, _server) = answering(json("200 OK", "{}")).await;
    assert!(matches!(client.exec(&api()).await.unwrap_err(), ClientError::Protocol { .. }));
}

/// Asserts what a call sends, whatever becomes of the reply.
async fn sends<T>(first_line: &str, body: &str, call: impl AsyncFnOnce(Client) -> T) -> T {
    let (client, asked) = answering(json("200 OK", body)).await;
    let result = call(client).await;
    let head = asked.await.unwrap();
    assert_eq!(head.lines().next(), Some(first_line));
    result
}

#[tokio::test]
async fn every_call_has_its_method_and_path() {
    let session = "claude-1".parse().unwrap();
    let image = "my.image_v1".parse().unwrap();
    let sessions = r#"{"sessions":[{"name":"a","shed_name":"api","created_at":"2026-01-20T10:30:00Z","attached":true,"window_count":1}],"warnings":["w"]}"#;
    let list =
        sends("GET /api/sheds/api/sessions HTTP/1.1", sessions, async |c: Client| c.sessions(&api()).await);
    assert_eq!(list.await.unwrap().sessions[0].name, "a");
    let list = sends("GET /api/sessions HTTP/1.1", sessions, async |c: Client| c.all_sessions().await);
    assert_eq!(list.await.unwrap().warnings, ["w"]);
    sends("DELETE /api/sheds/api/sessions/claude-1 HTTP/1.1", "", async |c: Client| {
        c.kill_session(&api(), &session).await
    })
    .await
    .unwrap();
    let key = r#"{"host_key":"ssh-ed25519 AAAA"}"#;
    let key = sends("GET /api/ssh-host-key HTTP/1.1", key, async |c: Client| c.ssh_host_key().await).await;
    assert_eq!(key.unwrap().host_key, "ssh-ed25519 AAAA");
    let images = r#"{"images":[{"name":"base","source":"config","cached":false}]}"#;
    let images = sends("GET /api/images HTTP/1.1", images, async |c: Client| c.images().await).await.unwrap();
    assert_eq!((images[0].name.as_str(), images[0].size_bytes), ("base", None));
    sends("DELETE /api/images/my.image_v1 HTTP/1.1", "", async |c: Client| c.delete_image(&image).await)
        .await
        .unwrap();
    let none = r#"{"deleted":[]}"#;
    for dry_run in [true, false] {
        let line = format!("POST /api/images/prune?dry_run={dry_run} HTTP/1.1");
        let report = sends(&line, none, async |c: Client| c.prune_images(dry_run).await).await.unwrap();
        assert_eq!(report.deleted, []);
    }
    let usage = include_str!("../../shed-api/fixtures/system-df.json");
    let usage = sends("GET /api/system/df HTTP/1.1", usage, async |c: Client| c.system_usage().await).await;
    assert_eq!(usage.unwrap().server_name, "prod-mac");
    let report = include_str!("../../shed-api/fixtures/system-prune.json");
    let query = PruneQuery { until: Some("1h30m0s&x".to_owned()), ..PruneQuery::default() };
    let line = "POST /api/system/prune?until=1h30m0s%26x HTTP/1.1";
    let report = sends(line, report, async |c: Client| c.system_prune(&query).await).await.unwrap();
    assert_eq!(report.items.len(), 3);
}

#[tokio::test]
async fn a_list_of_ten_thousand_sheds_is_read_and_one_without_end_is_refused() {
    let shed = |number: usize| {
        let long = "x".repeat(1000);
        format!(
            r#"{{"name":"s{number}","status":"running","created_at":"2026-01-20T10:30:00Z","repo":"{long}","rootfs_path":"/{long}"}}"#
        )
    };
    let sheds: Vec<String> = (0..10_000).map(shed).collect();
    let body = format!(r#"{{"sheds":[{}]}}"#, sheds.join(","));
    assert!(body.len() > 16 << 20);
    let (client, _server) = answering(json("200 OK", &body)).await;
    assert_eq!(client.list().await.unwrap().len(), 10_000);

    let (client, server) = server(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.unwrap();
        // Until the client hangs up.
        while stream.write_all(&[b' '; 1 << 16]).await.is_ok() {}
    })
    .await;
    let error = client.list().await.unwrap_err();
    assert!(matches!(&error, ClientError::Protocol { reason, .. } if reason.contains("bytes")), "{error:?}");
    server.await.unwrap();
}
