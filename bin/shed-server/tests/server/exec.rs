//! `GET /api/sheds/{name}/exec`: refusals before the upgrade, frames after it.

use shed_api::ErrorCode;
use shed_client::ExecStream;
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameKind};
use shed_testkit::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    api::Api,
    common::{PATIENCE, connect, parse, send_with},
};

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: shed-exec\r\n";

fn request(cmd: &[&str]) -> Frame {
    let cmd = cmd.iter().map(ToString::to_string).collect();
    Frame::json(FrameKind::ExecRequest, &ExecRequest { cmd, ..ExecRequest::default() })
}

async fn exec(api: &Api, cmd: &[&str]) -> ExecStream {
    let mut stream = api.client.exec(&"api".parse().unwrap()).await.unwrap();
    stream.send(request(cmd)).await.unwrap();
    stream
}

#[tokio::test]
async fn output_and_exit_status_come_through() {
    let api = Api::new().await;
    api.create("api").await;
    let mut stream = exec(&api, &["echo", "a", "b"]).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), Frame::new(FrameKind::Data, "a b\n".into()));
    let status: ExitStatus = stream.next().await.unwrap().unwrap().parse().unwrap();
    assert_eq!(status, ExitStatus::exited(0));
    assert!(stream.next().await.is_none());
    let mut stream = exec(&api, &["exit", "7"]).await;
    let status: ExitStatus = stream.next().await.unwrap().unwrap().parse().unwrap();
    assert_eq!(status, ExitStatus::exited(7));
}

#[tokio::test]
async fn many_megabytes_come_back_unchanged() {
    let api = Api::new().await;
    api.create("api").await;
    let stream = exec(&api, &["cat"]).await;
    let (mut reader, mut writer) = stream.split();
    let data: bytes::Bytes = (0u32..4 << 20).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        use futures::SinkExt;
        for start in (0..sent.len()).step_by(100_000) {
            let piece = sent.slice(start..sent.len().min(start + 100_000));
            writer.send(Frame::new(FrameKind::Data, piece)).await.unwrap();
        }
        writer.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
        writer
    });
    let mut back = Vec::new();
    let status = loop {
        use futures::StreamExt;
        let frame = reader.next().await.unwrap().unwrap();
        match frame.kind {
            FrameKind::Data => back.extend_from_slice(&frame.payload),
            _ => break frame.parse::<ExitStatus>().unwrap(),
        }
    };
    assert_eq!(status, ExitStatus::exited(0));
    assert!(back == data, "{} bytes of {}", back.len(), data.len());
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn bytes_behind_the_headers_are_not_lost() {
    let api = Api::new().await;
    api.create("api").await;
    let mut bytes = format!("GET /api/sheds/api/exec HTTP/1.1\r\nhost: x\r\n{UPGRADE}\r\n").into_bytes();
    let payload = br#"{"cmd":["echo","early"]}"#;
    bytes.extend([0x01, 0, 0, 0, u8::try_from(payload.len()).unwrap()]);
    bytes.extend(payload);
    let mut stream = connect(api.port).await;
    stream.write_all(&bytes).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    let reply = parse(&reply);
    assert_eq!(reply.status, 101);
    assert_eq!(reply.headers["upgrade"], "shed-exec");
    assert_eq!(reply.headers["connection"].to_lowercase(), "upgrade");
    assert_eq!(reply.body, "\u{5}\0\0\0\u{6}early\n\u{4}\0\0\0\n{\"code\":0}");
}

#[tokio::test]
async fn everything_is_refused_before_the_upgrade() {
    let api = Api::new().await;
    let name = api.create("api").await;
    for headers in [
        "",
        "upgrade: shed-exec\r\n",
        "connection: Upgrade\r\n",
        "connection: Upgrade\r\nupgrade: shed-tcp\r\n",
        "connection: Upgrade\r\nupgrade: websocket\r\n",
    ] {
        let reply = send_with(api.port, "GET", "/api/sheds/api/exec", headers, "").await;
        assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()), "{headers}");
        assert!(reply.message().contains("Upgrade: shed-exec"), "{}", reply.message());
    }
    let unknown = api.client.exec(&"none".parse().unwrap()).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::ShedNotFound));
    api.client.stop(&name).await.unwrap();
    let stopped = api.client.exec(&name).await.unwrap_err();
    assert_eq!(stopped.code(), Some(ErrorCode::ShedNotRunning));
    assert!(stopped.to_string().contains("shed start api"), "{stopped}");
}

#[tokio::test]
async fn header_words_are_read_in_any_case_and_among_others() {
    let api = Api::new().await;
    api.create("api").await;
    let headers = "Connection: keep-alive, UPGRADE\r\nUpgrade: Shed-Exec\r\n";
    let mut stream = connect(api.port).await;
    let request = format!("GET /api/sheds/api/exec HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 101");
}

/// Takes the ten seconds that the lifecycle waits for an agent.
#[tokio::test]
async fn an_agent_that_does_not_answer_is_a_failed_connection() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.world.set_agent_up(&name, false);
    let error = api.client.exec(&name).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ConnectFailed), "{error}");
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_stream() {
    let api = Api::new().await;
    api.create("api").await;
    let mut stream = exec(&api, &["cat"]).await;
    stream.send(Frame::new(FrameKind::Data, "x".into())).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().payload, "x");
    let (mut reader, writer) = stream.split();
    // Half-closed: the guest sees the end of its input, ends, and that comes back.
    drop(writer);
    assert!(futures::StreamExt::next(&mut reader).await.is_none());
}

#[tokio::test]
async fn a_machine_that_ends_cuts_its_streams() {
    let api = Api::new().await;
    let name = api.create("api").await;
    let mut stream = exec(&api, &["cat"]).await;
    stream.send(Frame::new(FrameKind::Data, "x".into())).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().payload, "x");
    api.world.crash(&name);
    let end = tokio::time::timeout(PATIENCE, stream.next()).await.expect("the stream ends");
    assert!(matches!(end, None | Some(Err(_))), "{end:?}");
}

/// Takes the five seconds that streams have when the server ends.
#[tokio::test]
async fn an_exec_does_not_keep_the_server_from_ending() {
    let mut api = Api::new().await;
    let name = api.create("api").await;
    let mut stream = exec(&api, &["cat"]).await;
    stream.send(Frame::new(FrameKind::Data, "x".into())).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().payload, "x");
    api.end().await;
    let end = stream.next().await;
    assert!(matches!(end, None | Some(Err(_))), "{end:?}");
    wait_for("the machine to stay", PATIENCE, || std::future::ready(api.world.running() == [name.clone()]))
        .await
        .unwrap();
}
