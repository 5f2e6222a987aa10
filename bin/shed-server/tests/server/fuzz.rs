//! Requests as no client sends them, byte by byte, to the whole server: connection, HTTP, routing, checks, lifecycle.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use serde_json::Value;
use shed_testkit::fuzz;
use shed_types::{GoDuration, ImageName, ImageReference, SessionName, ShedName, TcpPort};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    api::Api,
    common::{connect, parse},
};

/// A shed that runs throughout.
const SHED: &str = "walker";

/// Longest wait for a reply: there is nothing here that takes a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a client waits for the first byte before it goes away.
const SILENCE: Duration = Duration::from_millis(50);

/// Clients at a time.
const CLIENTS: usize = 32;

/// Statuses that are a failure of the server but belong to what was asked: the connection cannot be upgraded, nothing
/// listens on the port, the shed does not run or has no tmux.
const ALLOWED_FAILURES: [&str; 4] =
    ["HIJACK_UNSUPPORTED", "CONNECT_FAILED", "SHED_NOT_RUNNING", "TMUX_NOT_AVAILABLE"];

/// A request, and how much of it is sent.
#[derive(Debug, Clone)]
struct Attempt {
    bytes: Vec<u8>,
    whole: bool,
}

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(words).prop_map(str::to_owned)
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => one_of(&["walker", "nobody", "prune", "base", "default", "1", "80", "65535", "65536", "007", "+1", ""]),
        2 => "[a-z][a-z0-9-]{0,8}",
        1 => "[!-~]{0,12}",
        1 => "(%[0-9a-fA-F]{2}|%|%2F|%00|\\.\\.|%2e){1,4}",
        1 => "[a-z]{60,70}",
    ]
}

fn target() -> impl Strategy<Value = String> {
    let place = one_of(&[
        "/api/info",
        "/api/ssh-host-key",
        "/api/openapi.json",
        "/metrics",
        "/api/sheds",
        "/api/sheds/{}",
        "/api/sheds/{}/start",
        "/api/sheds/{}/stop",
        "/api/sheds/{}/exec",
        "/api/sheds/{}/connect/{}",
        "/api/sheds/{}/sessions",
        "/api/sheds/{}/sessions/{}",
        "/api/sessions",
        "/api/images",
        "/api/images/{}",
        "/api/images/prune",
        "/api/system/df",
        "/api/system/prune",
        "/{}",
        "/api/{}/{}",
        "*",
        "http://elsewhere/api/info",
        "//api/sheds",
    ]);
    let query = prop_oneof![
        3 => Just(String::new()),
        2 => "\\?((dry_run|scope|until|log_tail_bytes|keep_volume|x)=(true|false|72h|-1h|0s|images|logs||5|-5|9{30}|%ff)&?){0,4}",
        1 => "\\?[!-~]{0,30}",
    ];
    (place, segment(), segment(), query).prop_map(|(place, first, second, query)| {
        place.replacen("{}", &first, 1).replacen("{}", &second, 1) + &query
    })
}

fn header() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => one_of(&[
            "Connection: Upgrade\r\nUpgrade: shed-tcp",
            "Connection: Upgrade\r\nUpgrade: shed-exec",
            "Connection: keep-alive, upgrade",
            "Upgrade: websocket",
            "Accept: text/event-stream",
            "Accept: */*",
            "Content-Type: application/json",
            "Content-Type: text/xml",
            "Content-Type: multipart/form-data; boundary=x",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Content-Length: 2",
            "Content-Length: -1",
            "Content-Length: 99999999999999999999",
            "Expect: 100-continue",
            "Origin: http://evil.example",
            "Host: elsewhere",
        ]),
        1 => "X-Request-Id: [ -~]{0,80}",
        1 => "[A-Za-z-]{1,20}: [ -~]{0,60}",
        1 => "[ -~]{0,30}",
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(Vec::new()),
        2 => "\\{\"name\":\"[a-z]{1,3}\"(,\"(cpus|memory_mb|repo|image|backend|local_dir)\":(1|512|null|\"[a-z/]{0,9}\"))?\\}"
            .prop_map(String::into_bytes),
        1 => "[ -~]{0,60}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => Just(b"2\r\n{}\r\n0\r\n\r\n".to_vec()),
    ]
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let method = prop_oneof![
        6 => one_of(&["GET", "POST", "DELETE"]),
        1 => one_of(&["HEAD", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY", "get", "PRI"]),
    ];
    let version = prop_oneof![
        8 => Just("HTTP/1.1".to_owned()),
        1 => one_of(&["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 ", ""]),
    ];
    let headers = prop::collection::vec(header(), 0..5);
    let parts = (method, target(), version, headers, body(), any::<bool>());
    let well_formed = parts.prop_map(|(method, target, version, headers, body, length)| {
        let mut head = format!("{method} {target} {version}\r\nHost: x\r\n");
        if !headers.iter().any(|header| header.starts_with("Connection")) {
            head += "Connection: close\r\n";
        }
        for header in headers {
            head += &header;
            head += "\r\n";
        }
        if length {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        [head.into_bytes(), body].concat()
    });
    let damage = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    let cut = prop::option::weighted(0.2, any::<prop::sample::Index>());
    (well_formed, damage, cut).prop_map(|(mut bytes, damage, cut)| {
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = cut.is_none();
        if let Some(at) = cut {
            bytes.truncate(at.index(bytes.len()));
        }
        Attempt { bytes, whole }
    })
}

/// Sends it and reads what comes back until the server closes.
async fn answer(port: u16, attempt: &Attempt) -> Vec<u8> {
    let mut stream = connect(port).await;
    let (mut reader, mut writer) = stream.split();
    let send = async {
        // The server may have read enough to refuse, and have closed.
        let _closed = writer.write_all(&attempt.bytes).await;
        if !attempt.whole {
            let _closed = writer.shutdown().await;
        }
    };
    let mut reply = Vec::new();
    let receive = async {
        // The first piece is enough to see what is expected of the client: a stream ends when the client ends, and a
        // connection that is kept alive, or waits for the rest of a request, when the client goes.
        let _reset = reader.read_buf(&mut reply).await;
    };
    // After this the server waits for the rest of something that was never whole. One that was only slow now sees its
    // client go away, which it has to bear, too.
    let _silent = timeout(SILENCE, async { tokio::join!(send, receive) }).await;
    let _closed = writer.shutdown().await;
    let _reset = timeout(PATIENCE, reader.read_to_end(&mut reply)).await.expect("the server closes");
    reply
}

fn check(reply: &[u8], attempt: &Attempt) {
    if reply.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(reply);
    assert!(text.starts_with("HTTP/1."), "no HTTP: {text:?}");
    let reply = parse(reply);
    if reply.status < 500 {
        return;
    }
    let error: Value = serde_json::from_str(&reply.body).unwrap_or_default();
    let code = error["error"]["code"].as_str().unwrap_or_default();
    assert!(ALLOWED_FAILURES.contains(&code), "{attempt:?} made the server fail: {text}");
}

#[test]
fn fuzz_requests() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let api = Arc::new(runtime.block_on(async {
        let api = Api::new().await;
        api.create(SHED).await;
        api
    }));
    let many = prop::collection::vec(attempt(), CLIENTS);
    fuzz("requests, 32 at a time", &many, |attempts| {
        let answers = attempts.iter().map(|attempt| answer(api.port, attempt));
        let replies = runtime.block_on(futures::future::join_all(answers));
        for (attempt, reply) in attempts.iter().zip(replies) {
            check(&reply, attempt);
        }
    });
    runtime.block_on(async {
        let mut api = Arc::into_inner(api).expect("nobody else has it");
        assert_eq!(api.send("GET", "/api/info", "").await.status, 200);
        for shed in api.client.list().await.unwrap() {
            api.client.delete(&shed.name.parse().unwrap()).await.unwrap();
        }
        api.wait_until_clean().await;
        api.end().await;
    });
}

/// What paths, queries and bodies name: whatever parses reads back as itself, and is as harmless as its type promises.
#[test]
fn fuzz_words() {
    let word = prop_oneof![
        "[a-z][a-z0-9-]{0,66}",
        "[A-Za-z0-9._:/@+-]{0,40}",
        "[0-9+-]{0,7}",
        "([0-9]{0,20}(\\.[0-9]{0,20})?(ns|us|µs|μs|ms|s|m|h|d)?){0,5}",
        "([a-z0-9.-]{1,12}(:[0-9]{1,6})?/)?[a-z0-9._/-]{1,20}(:[A-Za-z0-9._-]{0,20})?(@sha256:[0-9a-f]{60,66})?",
        "\\PC{0,20}",
        prop::collection::vec(any::<char>(), 0..20).prop_map(|chars| chars.into_iter().collect()),
    ];
    fuzz("words", &word, |word: String| {
        let safe = |text: &str| {
            assert_eq!(text, word);
            assert!(
                !text.is_empty() && !text.starts_with(['-', '.']) && !text.contains(['/', '\0', ' ', '\n'])
            );
        };
        if let Ok(name) = word.parse::<ShedName>() {
            safe(name.as_str());
        }
        if let Ok(name) = word.parse::<SessionName>() {
            safe(name.as_str());
            assert!(!name.as_str().contains([':', '.', '=']));
        }
        if let Ok(name) = word.parse::<ImageName>() {
            safe(name.as_str());
        }
        if let Ok(port) = word.parse::<TcpPort>() {
            assert_eq!(port.to_string().parse::<TcpPort>(), Ok(port));
        }
        if let Ok(time) = word.parse::<GoDuration>() {
            assert_eq!(time.to_string().parse::<GoDuration>(), Ok(time));
        }
        if let Ok(reference) = word.parse::<ImageReference>() {
            assert_eq!(reference.as_str().parse::<ImageReference>(), Ok(reference.clone()));
            assert!(!reference.repository().is_empty() && !reference.as_str().contains(char::is_whitespace));
        }
    });
}
