//! Shared by the tests of shed-server: requests byte by byte, as no well-behaved client would send them.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest wait for anything in these tests; nothing in them takes a tenth of it on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A reply, taken apart.
#[derive(Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl RawReply {
    /// Returns the status and the code of the error body; panics when the reply has no error body.
    pub(crate) fn error(&self) -> (u16, String) {
        let value: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        let object = value.as_object().unwrap_or_else(|| panic!("no object: {self:?}"));
        assert_eq!(object.keys().collect::<Vec<_>>(), ["error"], "{self:?}");
        let error = object["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message"], "{self:?}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{self:?}");
        (self.status, error["code"].as_str().unwrap().to_owned())
    }

    /// Returns the message of the error body.
    pub(crate) fn message(&self) -> String {
        let value: Value = serde_json::from_str(&self.body).unwrap();
        value["error"]["message"].as_str().unwrap().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

pub(crate) async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

/// Sends bytes and returns the reply; the request must ask for the connection to be closed.
pub(crate) async fn raw(port: u16, request: impl AsRef<[u8]>) -> RawReply {
    let mut stream = connect(port).await;
    // A server that refuses a body half-way closes; what it said before is the reply.
    let _refused = stream.write_all(request.as_ref()).await;
    read_reply(&mut stream).await
}

/// Sends a request with a body and returns the reply.
pub(crate) async fn send(port: u16, method: &str, path: &str, body: impl AsRef<[u8]>) -> RawReply {
    send_with(port, method, path, "", body).await
}

/// Sends a request with more headers, each ended by CRLF.
pub(crate) async fn send_with(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: impl AsRef<[u8]>,
) -> RawReply {
    let body = body.as_ref();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    raw(port, request).await
}

/// Reads until the server closes.
pub(crate) async fn read_reply(stream: &mut TcpStream) -> RawReply {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let _reset =
        read.unwrap_or_else(|_| panic!("no end of the reply: {:?}", String::from_utf8_lossy(&bytes)));
    parse(&bytes)
}

pub(crate) fn parse(bytes: &[u8]) -> RawReply {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP reply: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let body = if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        unchunk(body)
    } else {
        body.to_owned()
    };
    RawReply { status, headers, body }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        let Some(chunk) = rest.get(..length) else { break };
        text += chunk;
        body = rest.get(length + 2..).unwrap_or_default();
    }
    text
}

/// Memory of this process that is in use, in KiB: server, fake guests and clients are all in it. Where there is no /proc
/// it is always the same.
pub(crate) fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().unwrap().parse().unwrap()
}
