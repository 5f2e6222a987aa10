//! `shed-aws-proxy`, asked by curl and by hand.

#![cfg(target_os = "linux")]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use serde_json::{Value, json};

use common::{Answer, Bus, Service, output, program, text, wait_for_file};

struct Proxy {
    dir: tempfile::TempDir,
    service: Service,
    address: String,
}

fn proxy(bus_url: &str) -> Proxy {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(
        program("shed-aws-proxy")
            .args(["--port", "0", "--publish-url", bus_url, "--run-dir"])
            .arg(dir.path()),
    );
    let address = service.wait_for("listens on ");
    Proxy { dir, service, address }
}

impl Proxy {
    /// Status and body of what curl gets.
    fn curl(&self, arguments: &[&str], path: &str) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "60", "--noproxy", "*", "--write-out", "\n%{http_code}"]);
        let out = output(curl.args(arguments).arg(format!("http://{}{path}", self.address)), b"");
        let out = text(&out.stdout);
        let (body, status) = out.rsplit_once('\n').unwrap_or(("", &out));
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

#[test]
fn credentials_are_given_as_aws_tools_read_them() {
    let bus = Bus::serve(|namespace, payload| {
        assert_eq!(namespace, "aws-credentials");
        match payload["operation"].as_str().unwrap() {
            "ping" => Answer::Payload(json!({"status": "ok"})),
            "get_credentials" => Answer::Payload(json!({"access_key_id": "ASIA", "secret_access_key": "s",
                "session_token": "t", "expiration": "2026-01-20T10:30:00Z"})),
            other => panic!("{other}"),
        }
    });
    let proxy = proxy(&bus.url);
    let expected = json!({"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": "2026-01-20T10:30:00Z"});
    assert_eq!(proxy.curl(&[], "/credentials"), (200, expected));
    let status = wait_for_file(&proxy.dir.path().join("aws-credentials.status"));
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["connected"], true);
    for (arguments, path, expected) in [
        (&["-X", "POST", "-d", "x"][..], "/credentials", 405),
        (&["-X", "DELETE"], "/credentials", 405),
        (&[], "/", 404),
        (&[], "/credentials/../x", 404),
        (&["-H", "Host: evil.example"], "/credentials", 403),
        (&["-H", "Host: evil.example:499"], "/credentials", 403),
        (&["-H", "Origin: http://localhost"], "/credentials", 403),
        (&["--http1.0", "-H", "Host:"], "/credentials", 403),
    ] {
        let (status, body) = proxy.curl(arguments, path);
        assert_eq!(status, expected, "{arguments:?} {path}");
        for key in ["error", "message", "hint"] {
            assert!(body[key].is_string(), "{body}");
        }
    }
    // A head that is too long, one that is no HTTP, and a client that goes: each has its own end.
    for bytes in
        [format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)), "hello\r\n\r\n".to_owned(), String::new()]
    {
        let mut stream = TcpStream::connect(&proxy.address).unwrap();
        let _hung_up = stream.write_all(bytes.as_bytes());
        let _hung_up = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert!(!text(&answer).contains("ASIA"));
    }
    assert_eq!(proxy.curl(&[], "/credentials").0, 200);
}

#[test]
fn what_the_bus_lacks_is_503_and_what_it_gives_wrongly_502() {
    let none = proxy("http://127.0.0.1:1");
    let (status, body) = none.curl(&[], "/credentials");
    assert_eq!(status, 503);
    assert!(body["hint"].as_str().unwrap().contains("shed-host-agent status"), "{body}");
    none.service.wait_for("no credentials: aws-credentials: cannot reach shed-agent");

    let cut = || Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nhunter2".to_vec());
    let endless = || Answer::Raw([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b' '; 3 << 20]].concat());
    type Case = (u16, fn() -> Answer);
    let cases: [Case; 7] = [
        (502, cut),
        (502, endless),
        (502, || Answer::Payload(json!({"error": "none", "code": "ROLE_NOT_FOUND"}))),
        (502, || Answer::Payload(json!({"secret_access_key": "hunter2"}))),
        (503, || Answer::Error(503, "NO_CONNECTION")),
        (503, || Answer::Error(504, "TIMEOUT")),
        (503, || Answer::Silence),
    ];
    for (expected, answer) in cases {
        let bus = Bus::serve(move |_, _| answer());
        let (status, body) = proxy(&bus.url).curl(&[], "/credentials");
        assert_eq!(status, expected, "{body}");
        assert!(!body.to_string().contains("hunter2"), "{body}");
    }
}

#[test]
fn a_port_that_is_taken_is_said() {
    let bus = Bus::serve(|_, _| Answer::Payload(json!({"status": "ok"})));
    let first = proxy(&bus.url);
    let port = first.address.rsplit(':').next().unwrap();
    let second = output(program("shed-aws-proxy").args(["--port", port, "--publish-url", &bus.url]), b"");
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("cannot listen on 127.0.0.1"), "{}", text(&second.stderr));
}
