//! Files on their way into a shed over the API: whole, streamed, refused in their order, and into guests that fail.

use std::{io, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use shed_api::FilesReport;
use shed_backend::fake::FakeFiles;
use shed_protocol::FilesErrorKind;
use shed_testkit::wait_for;
use shed_types::ShedName;
use tokio::io::AsyncWriteExt;

use crate::{
    api::Api,
    common::{PATIENCE, RawReply, connect, raw, read_reply, send_with},
};

const PATH: &str = "/api/sheds/api/files?path=~/x";

fn piece(length: usize) -> io::Result<Bytes> {
    Ok(Bytes::from(vec![7; length]))
}

async fn put(api: &Api, path: &str, body: impl AsRef<[u8]>) -> RawReply {
    api.send("PUT", path, body).await
}

/// Waits until a transfer has ended in the guest, and returns how much of it came and whether it was all.
async fn last_put(api: &Api, shed: &ShedName, count: usize) -> (usize, bool) {
    wait_for("the transfer to end in the guest", PATIENCE, || {
        std::future::ready(api.world.puts(shed).len() >= count)
    })
    .await
    .unwrap();
    let put = api.world.puts(shed).pop().unwrap();
    (put.archive.len(), put.complete)
}

async fn wait_until_begun(api: &Api) {
    wait_for("the transfer to begin", PATIENCE, || async {
        api.send("GET", "/metrics", "").await.body.contains("shed_streams_open{kind=\"files\"} 1")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_reply_keeps_its_shape_and_the_archive_arrives_as_it_was() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let reply = put(&api, "/api/sheds/api/files?path=%2Fopt%2Fa%20b", "archive").await;
    assert_eq!((reply.status, &reply.headers["content-type"][..]), (200, "application/json"));
    insta::assert_snapshot!(reply.body, @r#"{"files":1,"directories":0,"links":0,"bytes":7}"#);
    let seen = api.world.puts(&shed);
    assert_eq!((seen[0].target.as_str(), &seen[0].archive[..]), ("/opt/a b", &b"archive"[..]));
    api.world.set_files(&shed, FakeFiles::TakenWith(vec!["x: left out\u{1b}[2J".into()]));
    let reply = put(&api, PATH, "").await;
    assert!(reply.status == 200 && !reply.body.contains("\\u001b"), "{reply:?}");
    assert!(reply.json()["warnings"][0].as_str().unwrap().starts_with("x: left out"), "{reply:?}");
}

#[tokio::test]
async fn far_more_than_any_other_body_is_streamed_by_the_client() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let pieces = stream::iter((0..300).map(|_| piece(64 << 10)));
    let report = api.client.put_files(&shed, &"~".parse().unwrap(), pieces).await.unwrap();
    assert_eq!(report, FilesReport { files: 1, bytes: 300 * (64 << 10), ..FilesReport::default() });
    assert_eq!(api.world.puts(&shed)[0].target, "~");
}

#[tokio::test]
async fn no_more_is_read_from_a_client_than_the_guest_takes() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    api.world.set_files(&shed, FakeFiles::Stuck(1));
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    let pieces = stream::iter(0..10_000).map(move |_| {
        counted.fetch_add(64 << 10, std::sync::atomic::Ordering::Relaxed);
        piece(64 << 10)
    });
    let client = api.client.clone();
    let name = shed.clone();
    let putting = tokio::spawn(async move { client.put_files(&name, &"/x".parse().unwrap(), pieces).await });
    // What is on the way is what the sockets of this machine hold; it stops long before the 640 MB are read.
    last_put(&api, &shed, 1).await;
    let mut before = usize::MAX;
    while before != sent.load(std::sync::atomic::Ordering::Relaxed) {
        before = sent.load(std::sync::atomic::Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(before < 100 << 20, "{before} bytes were taken");
    putting.abort();
}

#[tokio::test]
async fn refusals_come_in_their_order() {
    let api = Api::new().await;
    let error = async |path: &str| put(&api, path, "").await.error();
    assert_eq!(error("/api/sheds/A/files?path=/x").await, (400, "INVALID_SHED_NAME".into()));
    for path in [
        "",
        "?path=",
        "?path=x",
        "?path=%7Eroot",
        "?path=/a/../b",
        "?path=/x&path=/y",
        "?path=/%00",
        "?target=/x",
        "?path=%FF",
    ] {
        let reply = put(&api, &format!("/api/sheds/none/files{path}"), "").await;
        assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()), "{path}");
        assert!(reply.message().contains("path") && reply.message().len() < 700, "{}", reply.message());
    }
    let long = put(&api, &format!("/api/sheds/none/files?path=/{}", "a/".repeat(3000)), "").await;
    assert!(long.error() == (400, "INVALID_REQUEST".into()) && long.message().len() < 700);
    let json = send_with(
        api.port,
        "PUT",
        "/api/sheds/none/files?path=/x",
        "content-type: application/json\r\n",
        "{}",
    );
    assert_eq!(json.await.error(), (415, "UNSUPPORTED_MEDIA_TYPE".into()));
    let packed =
        send_with(api.port, "PUT", "/api/sheds/none/files?path=/x", "content-encoding: gzip\r\n", "x");
    assert_eq!(packed.await.error(), (415, "UNSUPPORTED_MEDIA_TYPE".into()));
    assert_eq!(error("/api/sheds/none/files?path=/x").await, (404, "SHED_NOT_FOUND".into()));
    let shed = api.create("api").await;
    api.client.stop(&shed).await.unwrap();
    assert_eq!(error(PATH).await, (503, "SHED_NOT_RUNNING".into()));
    for method in ["GET", "POST", "DELETE"] {
        let reply = api.send(method, PATH, "").await;
        assert_eq!((reply.error(), &reply.headers["allow"][..]), ((405, "METHOD_NOT_ALLOWED".into()), "PUT"));
    }
}

#[tokio::test]
async fn what_the_guest_says_decides_the_code_even_before_the_end() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    for (kind, status, code) in [
        (FilesErrorKind::BadArchive, 400, "INVALID_REQUEST"),
        (FilesErrorKind::BadPath, 409, "TARGET_UNUSABLE"),
        (FilesErrorKind::NoSpace, 507, "INSUFFICIENT_STORAGE"),
        (FilesErrorKind::Failed, 500, "BACKEND_ERROR"),
    ] {
        for limit in [0, 1, 100_000] {
            api.world.set_files(&shed, FakeFiles::Refused(limit, kind, "why\u{1b}[31m\n".repeat(2000)));
            let reply = put(&api, PATH, vec![7; 3 << 20]).await;
            assert_eq!(reply.error(), (status, code.to_owned()));
            let message = reply.message();
            assert!(message.contains("why") && message.len() < 700, "{message}");
            assert!(!message.contains(char::is_control), "{message:?}");
            // The client that still sends gets the same answer.
            let pieces = stream::iter((0..200).map(|_| piece(64 << 10)));
            let error = api.client.put_files(&shed, &"~/x".parse().unwrap(), pieces).await.unwrap_err();
            assert_eq!(error.code().map(shed_api::ErrorCode::as_str), Some(code), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_guest_that_answers_badly_is_a_failed_connection() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    for files in [FakeFiles::HangsUp, FakeFiles::Says(b"\x1b]0;x\x07".to_vec()), FakeFiles::Says(Vec::new())]
    {
        api.world.set_files(&shed, files);
        let reply = put(&api, PATH, "archive").await;
        assert_eq!(reply.error(), (502, "CONNECT_FAILED".into()));
        assert!(!reply.message().contains(char::is_control), "{:?}", reply.message());
    }
}

#[tokio::test]
async fn a_client_that_goes_away_never_ends_the_archive_for_the_guest() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let head = format!("PUT {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
    let mut stream = connect(api.port).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[7; 200_000]).await.unwrap();
    wait_until_begun(&api).await;
    drop(stream);
    assert!(!last_put(&api, &shed, 1).await.1);
    // Nor does one that breaks its own chunks.
    let chunks =
        format!("PUT {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense");
    let reply = raw(api.port, chunks).await;
    assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()));
    assert_eq!(last_put(&api, &shed, 2).await, (0, false));
    // Nor does an archive that cannot be read to its end at the client's.
    let (fail, failed) = tokio::sync::oneshot::channel::<()>();
    let broken = stream::iter([piece(100_000)]).chain(stream::once(async {
        let _told = failed.await;
        Err(io::ErrorKind::TimedOut.into())
    }));
    let (client, name) = (api.client.clone(), shed.clone());
    let putting = tokio::spawn(async move { client.put_files(&name, &"/x".parse().unwrap(), broken).await });
    wait_until_begun(&api).await;
    fail.send(()).unwrap();
    putting.await.unwrap().unwrap_err();
    assert!(!last_put(&api, &shed, 3).await.1);
}

#[tokio::test]
async fn a_shed_that_stops_in_the_middle_is_told() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    api.world.set_files(&shed, FakeFiles::Stuck(1));
    let mut stream = connect(api.port).await;
    let head = format!(
        "PUT {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000\r\n\r\nsome of it"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[7; 900]).await.unwrap();
    // The guest waits for more, and so does the client.
    wait_until_begun(&api).await;
    api.world.crash(&shed);
    assert_eq!(read_reply(&mut stream).await.error(), (502, "CONNECT_FAILED".into()));
}
