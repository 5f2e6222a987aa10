//! Asks a VMM over the Unix socket of its control interface: HTTP/1.1 with JSON.
//!
//! Called by each backend whose VMM has such a socket (Firecracker, vfkit). One connection is made for one request. It knows
//! nothing of what may be asked, and an answer that is an error is an answer: what it means is the backend's to say.

use std::{io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// Longest wait for an answer. VMMs answer between two steps of what they do.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// What a VMM answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    body: Bytes,
}

impl Answer {
    /// Returns the answer's document, if it has one.
    pub(crate) fn document(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Returns the words by which the VMM says why it refuses; they are under this key.
    pub(crate) fn words(&self, key: &str) -> String {
        let words = self.document().and_then(|document| Some(document[key].as_str()?.to_owned()));
        words.map_or_else(
            || "it does not say why".to_owned(),
            |words| words.chars().take(400).collect::<String>().escape_default().to_string(),
        )
    }
}

/// Sends one request over a new connection and returns the answer.
///
/// # Errors
/// When there is none within five seconds, or one that is too long or no HTTP.
pub(crate) async fn ask(
    connection: impl Future<Output = io::Result<UnixStream>>,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> io::Result<Answer> {
    timeout(PATIENCE, async { send(connection.await?, method, path, body).await }).await?
}

async fn send(stream: UnixStream, method: Method, path: &str, body: Option<&Value>) -> io::Result<Answer> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default()))
        .map_err(io::Error::other)?;
    let reply = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), ANSWER_MAX).collect().await.map_err(io::Error::other)?;
    Ok(Answer { status, body: body.to_bytes() })
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    /// Asks a server that answers one request so, and keeps the connection.
    async fn answered(reply: Vec<u8>) -> (io::Result<Answer>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = tokio::spawn(async move {
            let mut asked = vec![0; 4096];
            let length = theirs.read(&mut asked).await.unwrap();
            // Who reads too much of it has gone.
            let _cut_off = theirs.write_all(&reply).await;
            (String::from_utf8(asked[..length].to_vec()).unwrap(), theirs)
        });
        let body = serde_json::json!({ "state": "Stop" });
        let answer = ask(async { Ok(ours) }, Method::POST, "/vm/state", Some(&body)).await;
        (answer, server.await.unwrap().0)
    }

    #[tokio::test]
    async fn a_request_is_whole_and_an_error_is_an_answer_in_the_vmms_words() {
        let document = r#"{"error": "no\u001bpe"}"#;
        let reply = format!("HTTP/1.1 500 \r\nContent-Length: {}\r\n\r\n{document}", document.len());
        let (answer, asked) = answered(reply.into_bytes()).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.words("error")), (500, r"no\u{1b}pe"));
        assert_eq!(answer.words("reason"), "it does not say why");
        assert!(asked.starts_with("POST /vm/state HTTP/1.1\r\n"), "{asked}");
        assert!(asked.ends_with(r#"{"state":"Stop"}"#), "{asked}");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        let mut endless = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".to_vec();
        endless.resize(ANSWER_MAX * 2, b' ');
        for reply in [b"hello\r\n\r\n".to_vec(), endless] {
            assert!(answered(reply).await.0.is_err());
        }
        let none = ask(async { Err(io::ErrorKind::NotFound.into()) }, Method::GET, "/", None).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn a_vmm_that_says_nothing_is_not_waited_for_long() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let begun = Instant::now();
        let error = ask(async { Ok(ours) }, Method::GET, "/vm/state", None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < PATIENCE * 2);
    }
}
