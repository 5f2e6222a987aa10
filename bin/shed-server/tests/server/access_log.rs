//! The access log: a line a request, a second one for a stream, and nothing in either that a client could forge.

use shed_testkit::wait_for;
use tokio::io::AsyncWriteExt;

use crate::{
    common::{PATIENCE, connect, raw, send_with},
    process::{self, Scripted},
};

/// Returns the lines of the access log that have these words, as soon as there are as many as wanted.
async fn lines(test: &Scripted, words: &str, count: usize) -> Vec<String> {
    let find = || {
        let all = test.server.log();
        let found = all.lines().filter(|line| line.contains(words)).map(str::to_owned);
        found.collect::<Vec<_>>()
    };
    wait_for(words, PATIENCE, || std::future::ready(find().len() >= count))
        .await
        .unwrap_or_else(|error| panic!("{error}:\n{}", test.server.log()));
    let found = find();
    assert_eq!(found.len(), count, "{found:?}");
    found
}

#[tokio::test]
async fn a_request_is_one_line_with_all_there_is_to_say() {
    let test = process::server().await;
    let port = test.server.client().server().port();
    let headers = "x-request-id: mine-1\r\nuser-agent: test/1.0 (x; \"y\")\r\n";
    let reply = send_with(port, "GET", "/api/sheds?a=1&b=%20", headers, "").await;
    let line = lines(&test, "mine-1", 1).await.remove(0);
    for part in [
        "INFO request{id=mine-1}: request method=GET path=/api/sheds?a=1&b=%20 status=200 ms=",
        &format!(" bytes={} peer=127.0.0.1:", reply.body.len()),
        r#" agent="test/1.0 (x; \"y\")""#,
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let _reply = send_with(port, "GET", "/nowhere", "x-request-id: mine-2\r\n", "").await;
    let line = lines(&test, "mine-2", 1).await.remove(0);
    assert!(line.contains("path=/nowhere status=404") && !line.contains("agent="), "{line}");
}

#[tokio::test]
async fn what_a_client_sends_cannot_make_a_line_of_its_own() {
    let test = process::server().await;
    let port = test.server.client().server().port();
    let agent = format!("evil\u{9b}31m\u{202e} INFO {}", "x".repeat(10_000));
    let long = "y".repeat(5000);
    let requests = [
        "GET /api/sheds/%0a%1b[31m HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        "GET /\u{9b}31m\u{202e}\u{85} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        format!("{} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "M".repeat(1000)),
        format!("GET /api/info HTTP/1.1\r\nhost: x\r\nconnection: close\r\nuser-agent: {agent}\r\n\r\n"),
        "GET /api/info HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: a b\u{1b}\r\n\r\n"
            .to_owned(),
        "\u{1b}[31m\r\n\r\n".to_owned(),
        r#"POST /api/sheds HTTP/1.1"#.to_owned()
            + "\r\nhost: x\r\nconnection: close\r\naccept: text/event-stream\r\ncontent-length: 40\r\n\r\n"
            + r#"{"name":"a","image":"\n\u001b[31m forged"}"#,
    ];
    for request in &requests {
        let _any = raw(port, request).await;
    }
    let _logged = lines(&test, "method=", requests.len()).await;
    let log = test.server.log();
    for line in log.lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains('\u{202e}') && line.len() < 1500, "{line:?}");
        // Each begins with the time of the event, which no client writes.
        assert!(line.starts_with("20") && line.as_bytes()[10] == b'T', "{line:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_reply_is_logged_too() {
    let test = process::server().await;
    let mut stream = connect(test.server.client().server().port()).await;
    let head = "POST /api/sheds HTTP/1.1\r\nhost: x\r\nx-request-id: gone\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let line = lines(&test, "id=gone", 1).await.remove(0);
    assert!(line.contains("path=/api/sheds status=4"), "{line}");
}

#[tokio::test]
async fn a_stream_has_a_second_line_when_it_ends() {
    let test = process::server().await;
    let port = test.server.client().server().port();
    let body = r#"{"name":"a","image":"none"}"#;
    let headers = "accept: text/event-stream\r\nx-request-id: events-1\r\n";
    let reply = send_with(port, "POST", "/api/sheds", headers, body).await;
    assert!(reply.body.starts_with("event: error\n"), "{reply:?}");
    let ended = format!("stream ended kind=\"events\" to_client={} complete=true ms=", reply.body.len());
    let line = lines(&test, &ended, 1).await.remove(0);
    assert!(line.contains("request{id=events-1}"), "{line}");
    let lines = lines(&test, "request method=", 1).await;
    assert!(lines[0].contains("status=200") && !lines[0].contains("bytes="), "{lines:?}");
}
