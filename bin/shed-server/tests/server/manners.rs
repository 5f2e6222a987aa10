//! HTTP at its edges, byte by byte: whatever is sent, the answer is in the error shape or the connection is closed, and
//! the server goes on.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    api::Api,
    common::{PATIENCE, RawReply, connect, parse, raw, read_reply, send_with},
};

/// Sends bytes, reads until the server closes, and returns what it said.
async fn exchange(port: u16, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(port).await;
    let _refused = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    let sent = String::from_utf8_lossy(bytes.as_ref()).chars().take(100).collect::<String>();
    read.unwrap_or_else(|_| panic!("{sent:?}: not closed after {answer:?}")).expect("no reset");
    answer
}

/// Reads one reply of a connection that stays open.
async fn next_reply(stream: &mut TcpStream) -> RawReply {
    let mut bytes = Vec::new();
    let complete = async {
        loop {
            bytes.push(stream.read_u8().await.expect("the connection is still open"));
            let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
            let reply = parse(&bytes);
            let length: usize = reply.headers.get("content-length").map_or(0, |text| text.parse().unwrap());
            if bytes.len() == head + 4 + length {
                return reply;
            }
        }
    };
    timeout(PATIENCE, complete).await.expect("a reply")
}

async fn assert_alive(api: &Api) {
    assert_eq!(api.send("GET", "/api/info", "").await.status, 200);
}

#[tokio::test]
async fn what_is_no_request_is_answered_in_the_error_shape() {
    let api = Api::new().await;
    let long = "x".repeat(70_000);
    for (request, code, status) in [
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{3}\u{3}\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        ("GET\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        ("GET /\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        ("GET / HTTP/3.0\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        ("GET / HTTP/1.1\r\nhost : x\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        ("GET / HTTP/1.1\r\nx: a\0b\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        ("GET /a b HTTP/1.1\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "INVALID_REQUEST", 400),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(10_000)), "HEADERS_TOO_LARGE", 431),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101)), "HEADERS_TOO_LARGE", 431),
        (format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), "HEADERS_TOO_LARGE", 431),
        (format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), "HEADERS_TOO_LARGE", 431),
    ] {
        let text = exchange(api.port, &request).await;
        let shown: String = request.chars().take(40).collect();
        assert_eq!(text.matches("HTTP/1.").count(), 1, "{shown:?}: one reply: {text}");
        let reply = parse(text.as_bytes());
        assert_eq!(reply.error(), (status, code.into()), "{shown:?}");
        assert_eq!(reply.headers["content-type"], "application/json", "{shown:?}");
        assert_eq!(reply.headers["connection"], "close", "{shown:?}");
        assert_eq!(reply.headers["x-request-id"].len(), 32, "{shown:?}");
        assert!(reply.headers["date"].ends_with(" GMT"), "{shown:?}");
    }
    assert_alive(&api).await;
}

#[tokio::test]
async fn any_bytes_at_all_leave_the_server_alive() {
    let api = Api::new().await;
    // A fixed walk over byte values: each round other bytes, the same in each run.
    let mut state = 0x9e37_79b9_u32;
    for round in 0..200_usize {
        let bytes: Vec<u8> = (0..round * 7)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        let mut stream = connect(api.port).await;
        let _refused = stream.write_all(b"GET / HTTP/1.1\r\n").await;
        let _refused = stream.write_all(&bytes).await;
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes");
        if !answer.is_empty() {
            let text = String::from_utf8(answer).unwrap();
            assert!(text.starts_with("HTTP/1.1 400 ") && text.contains(r#"{"error":{"code":"#), "{text}");
        }
    }
    assert_alive(&api).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_or_half_a_line_gets_no_reply() {
    let api = Api::new().await;
    for bytes in [&b""[..], b"GET", b"GET / HTTP/1.1\r\nhost: x\r\n", b"\r\n"] {
        let mut stream = connect(api.port).await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    assert_alive(&api).await;
}

#[tokio::test]
async fn a_reply_to_a_good_request_comes_before_the_refusal_of_a_bad_one() {
    let api = Api::new().await;
    let text = exchange(api.port, "GET /api/info HTTP/1.1\r\nhost: x\r\n\r\nGARBAGE\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    let (_, second) = text.split_once("}HTTP/1.1 ").expect("a second reply");
    assert!(second.starts_with("400 ") && second.contains("INVALID_REQUEST"), "{text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 2, "{text}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let api = Api::new().await;
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let paths = ["/api/info", "/api/sheds", "/nothing", "/api/sheds/none", "/api/ssh-host-key"];
    let mut requests: String = paths.map(one).concat();
    requests +=
        "DELETE /api/sheds/none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let text = exchange(api.port, requests).await;
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
    assert_eq!(statuses, ["200", "200", "404", "404", "200", "404"], "{text}");
}

#[tokio::test]
async fn a_body_that_an_endpoint_does_not_want_does_no_harm() {
    let api = Api::new().await;
    let mut stream = connect(api.port).await;
    for (method, path, status) in [
        ("GET", "/api/info", 200),
        ("DELETE", "/api/sheds/none", 404),
        ("POST", "/api/sheds/none/start", 404),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{{\"GET\":\"/x\"}} \r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        // The connection goes on, and no byte of the body is taken for a request.
        assert_eq!(next_reply(&mut stream).await.status, status, "{method} {path}");
    }
    drop(stream);
    // One that is too long to be read to its end: the reply arrives, and the connection ends.
    for size in [3 << 20, 40 << 20] {
        let mut stream = connect(api.port).await;
        let head = format!("POST /api/sheds/none/stop HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut left = size;
        while left > 0 && stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {
            left -= 1 << 16;
        }
        assert_eq!(read_reply(&mut stream).await.error(), (404, "SHED_NOT_FOUND".into()), "{size}");
    }
    assert_alive(&api).await;
}

#[tokio::test]
async fn a_client_that_sends_too_much_can_read_that_it_does() {
    let api = Api::new().await;
    // The client reads nothing before it has sent everything, as curl does, and sends far more than buffers hold.
    let long = vec![b' '; 32 << 20];
    for _ in 0..3 {
        for head in [
            format!("content-length: {}\r\n\r\n", long.len()),
            format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", long.len()),
        ] {
            let mut stream = connect(api.port).await;
            let head = format!("POST /api/sheds HTTP/1.1\r\nhost: x\r\n{head}");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&long).await.expect("the server reads on");
            let mut bytes = Vec::new();
            timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().expect("no reset");
            assert_eq!(parse(&bytes).error(), (413, "BODY_TOO_LARGE".into()));
        }
    }
    api.assert_clean();
}

#[tokio::test]
async fn lengths_that_contradict_each_other_smuggle_nothing() {
    let api = Api::new().await;
    let hidden = "GET /api/hidden HTTP/1.1\r\nhost: x\r\n\r\n";
    for (headers, body, statuses) in [
        ("content-length: 5\r\ncontent-length: 6\r\n", hidden.to_owned(), &["400"][..]),
        ("content-length: 5, 6\r\n", hidden.to_owned(), &["400"]),
        ("content-length: -1\r\n", hidden.to_owned(), &["400"]),
        ("content-length: +5\r\n", hidden.to_owned(), &["400"]),
        ("content-length: 0x5\r\n", hidden.to_owned(), &["400"]),
        ("content-length: 99999999999999999999\r\n", hidden.to_owned(), &["400"]),
        ("transfer-encoding: gzip\r\n", hidden.to_owned(), &["400"]),
        ("transfer-encoding: chunked, gzip\r\n", hidden.to_owned(), &["400"]),
        ("transfer-encoding: xchunked\r\n", hidden.to_owned(), &["400"]),
        // RFC 9112 §6.1 lets a server go by the coding, if it closes the connection after its reply.
        ("content-length: 5\r\ntransfer-encoding: chunked\r\n", format!("0\r\n\r\n{hidden}"), &["404"]),
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", format!("0\r\n\r\n{hidden}"), &["404"]),
    ] {
        let request = format!("POST /api/sheds/none/stop HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}");
        let text = exchange(api.port, request).await;
        let found: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
        assert_eq!(found, statuses, "{headers:?}: {text}");
        assert!(!text.contains("hidden"), "{headers:?}: {text}");
    }
    // A chunked coding is unknown to HTTP/1.0.
    let old = "POST /api/sheds/none/stop HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(raw(api.port, old).await.error().0, 400);
    // Chunks that are none end the body, not the server.
    for chunk in ["zz\r\n", "fffffffffffffffff\r\n", "5\r\nabc", "5;\u{1}\r\nhello\r\n", "-1\r\n"] {
        let request = format!(
            "POST /api/sheds HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunk}"
        );
        let mut stream = connect(api.port).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        if !answer.is_empty() {
            assert_eq!(parse(&answer).error().0, 400, "{chunk:?}");
        }
    }
    api.assert_clean();
}

#[tokio::test]
async fn the_host_is_named_exactly_once() {
    let api = Api::new().await;
    for (headers, status) in
        [("", 400), ("host: a\r\nhost: b\r\n", 400), ("host: a\r\n", 200), ("Host:\r\n", 200)]
    {
        let request = format!("GET /api/info HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
        assert_eq!(raw(api.port, request).await.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed_unless_it_asks_to_stay() {
    let api = Api::new().await;
    let text = exchange(api.port, "GET /api/info HTTP/1.0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
    let mut stream = connect(api.port).await;
    for _ in 0..2 {
        stream.write_all(b"GET /api/info HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.unwrap();
        assert_eq!(next_reply(&mut stream).await.status, 200);
    }
    // Its connection cannot become a stream.
    api.create("api").await;
    let request = "GET /api/sheds/api/exec HTTP/1.0\r\nconnection: upgrade\r\nupgrade: shed-exec\r\n\r\n";
    let (status, code) = raw(api.port, request).await.error();
    assert!(
        matches!((status, code.as_str()), (400, "INVALID_REQUEST") | (500, "HIJACK_UNSUPPORTED")),
        "{status} {code}"
    );
}

#[tokio::test]
async fn a_client_may_wait_for_leave_to_send_its_body() {
    let api = Api::new().await;
    let mut stream = connect(api.port).await;
    let body = r#"{"name":"api"}"#;
    let head = format!(
        "POST /api/sheds HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(next_reply(&mut stream).await.status, 100);
    stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(next_reply(&mut stream).await.status, 201);
    // What will be refused anyway is refused instead.
    for (headers, code) in [
        ("content-length: 99999999\r\n", (413, "BODY_TOO_LARGE".to_owned())),
        ("content-length: 10\r\ncontent-type: text/xml\r\n", (415, "UNSUPPORTED_MEDIA_TYPE".to_owned())),
    ] {
        let mut stream = connect(api.port).await;
        let head = format!("POST /api/sheds HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(next_reply(&mut stream).await.error(), code);
    }
}

#[tokio::test]
async fn the_content_type_of_a_create_is_json_or_what_curl_says() {
    let api = Api::new().await;
    let types = [
        "",
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/merge-patch+json",
        "application/x-www-form-urlencoded",
    ];
    for (number, kind) in types.iter().enumerate() {
        let header = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
        let body = json!({ "name": format!("api{number}") }).to_string();
        assert_eq!(send_with(api.port, "POST", "/api/sheds", &header, body).await.status, 201, "{kind}");
    }
    for (kind, body) in [
        ("text/xml", "{}"),
        ("text/plain", "{}"),
        ("multipart/form-data; boundary=x", "{}"),
        ("application/octet-stream", r#"{"name":"no"}"#),
        ("application/x-www-form-urlencoded", "name=no"),
        ("application/x-www-form-urlencoded", ""),
    ] {
        let header = format!("content-type: {kind}\r\n");
        let reply = send_with(api.port, "POST", "/api/sheds", &header, body).await;
        assert_eq!(reply.error(), (415, "UNSUPPORTED_MEDIA_TYPE".into()), "{kind} {body}");
    }
    let header = "content-type: application/x-www-form-urlencoded\r\n";
    let reply = send_with(api.port, "POST", "/api/sheds", header, r#"{"name":7}"#).await;
    assert_eq!(reply.error(), (400, "INVALID_SHED_NAME".into()));
}

#[tokio::test]
async fn head_is_get_without_the_body_and_opens_no_stream() {
    let api = Api::new().await;
    api.create("api").await;
    for path in
        ["/api/info", "/api/sheds", "/api/sheds/api", "/api/ssh-host-key", "/metrics", "/api/openapi.json"]
    {
        let text =
            exchange(api.port, format!("HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: "), "{path}: {head}");
        assert_eq!(body, "", "{path}");
    }
    let request = "HEAD /api/sheds/api/exec HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: shed-exec\r\n\r\n";
    let text = exchange(api.port, request).await;
    assert!(text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5"), "{text}");
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_told_the_ones_it_does() {
    let api = Api::new().await;
    let document: serde_json::Value = serde_json::from_str(&shed_server::http::document()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        // The values need not make sense: the method is looked at first.
        let mut target = path.clone();
        while let (Some(begin), Some(end)) = (target.find('{'), target.find('}')) {
            target.replace_range(begin..=end, "1");
        }
        let mut wanted: Vec<String> =
            item.as_object().unwrap().keys().map(|key| key.to_uppercase()).collect();
        if wanted.contains(&"GET".to_owned()) {
            wanted.push("HEAD".to_owned());
        }
        wanted.sort();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if wanted.contains(&method.to_owned()) {
                continue;
            }
            let reply = api.send(method, &target, "").await;
            assert_eq!(reply.error(), (405, "METHOD_NOT_ALLOWED".into()), "{method} {target}");
            let mut allowed: Vec<String> =
                reply.headers["allow"].split(',').map(|word| word.trim().to_owned()).collect();
            allowed.sort();
            assert_eq!(allowed, wanted, "{method} {target}");
        }
    }
}

#[tokio::test]
async fn targets_of_every_form_are_answered() {
    let api = Api::new().await;
    for (line, status) in [
        ("GET http://example.org/api/info HTTP/1.1", 200),
        ("GET https://example.org:1/api/info?x=1 HTTP/1.1", 200),
        ("GET http://example.org HTTP/1.1", 404),
        ("GET /api/info?%ff%00&&==& HTTP/1.1", 200),
        ("GET /api/info#x HTTP/1.1", 200),
        ("OPTIONS * HTTP/1.1", 404),
        ("GET * HTTP/1.1", 404),
        ("GET api HTTP/1.1", 404),
        ("CONNECT example.org:443 HTTP/1.1", 404),
        ("GET //api/info HTTP/1.1", 404),
        ("GET /api//info HTTP/1.1", 404),
        ("GET /api/info/ HTTP/1.1", 404),
        ("GET /api/sheds/ HTTP/1.1", 404),
        ("GET /api/./info HTTP/1.1", 404),
        ("GET /api/%69nfo HTTP/1.1", 404),
        ("GET /api%2Finfo HTTP/1.1", 404),
        ("GET /api/sheds/a%2Fb HTTP/1.1", 400),
        ("GET /api/sheds/a%00 HTTP/1.1", 400),
        ("GET /api/sheds/%ff HTTP/1.1", 400),
        ("GET /api/sheds/%zz HTTP/1.1", 400),
        ("GET /api/sheds/% HTTP/1.1", 400),
        ("GET /api/sheds/a;b HTTP/1.1", 400),
        ("GET /api/sheds/a?b HTTP/1.1", 404),
    ] {
        let reply = raw(api.port, format!("{line}\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(reply.status, status, "{line}: {reply:?}");
        if status != 200 {
            assert_eq!(reply.error().0, status, "{line}");
        }
    }
    // Bytes that are no ASCII.
    for bytes in [&b"/api/sheds/\xff"[..], b"/api/sheds/\xc3\xbc", b"/\x80\x81"] {
        let request = [b"GET ", bytes, b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"].concat();
        let (status, _) = raw(api.port, request).await.error();
        assert!(status == 400 || status == 404, "{bytes:?}: {status}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_in_time_is_told_so_and_silence_is_not() {
    let api = Api::new().await;
    let half = async {
        let mut stream = connect(api.port).await;
        stream.write_all(b"GET /api/info HTTP/1.1\r\nhost:").await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed").unwrap();
        assert_eq!(parse(&answer).error(), (408, "REQUEST_TIMEOUT".into()));
    };
    let drips = async {
        // Each byte comes in time, and the whole does not.
        let mut stream = connect(api.port).await;
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let drip = async {
            loop {
                if writer.write_all(b"GET /a").await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        tokio::select! {
            read = timeout(PATIENCE, reader.read_to_end(&mut answer)) => drop(read.expect("closed")),
            () = drip => unreachable!("it never ends"),
        }
        assert_eq!(parse(&answer).error(), (408, "REQUEST_TIMEOUT".into()));
    };
    let silent = async {
        let mut answer = Vec::new();
        timeout(PATIENCE, connect(api.port).await.read_to_end(&mut answer)).await.expect("closed").unwrap();
        assert!(answer.is_empty());
    };
    // Between two requests there is more time.
    let idle = async {
        let mut stream = connect(api.port).await;
        for pause in [0, 12, 0] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            stream.write_all(b"GET /api/info HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            assert_eq!(next_reply(&mut stream).await.status, 200);
        }
    };
    tokio::join!(half, drips, silent, idle);
    assert_alive(&api).await;
}
