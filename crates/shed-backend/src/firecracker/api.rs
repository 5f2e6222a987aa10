//! Asks a running Firecracker over the socket of its API: HTTP/1.1 with JSON (its src/firecracker/swagger).

use std::{io, time::Duration};

use bytes::Bytes;
use camino::Utf8Path;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::reach;

/// Longest wait for an answer. Firecracker answers between two steps of its one thread.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// Presses Ctrl-Alt-Del in the guest, which systemd takes for a wish to shut down. Only x86 has the key.
///
/// # Errors
/// When Firecracker does not answer, or refuses; with its words.
pub(super) async fn press_ctrl_alt_del(socket: &Utf8Path) -> io::Result<()> {
    put(socket, "/actions", &json!({ "action_type": "SendCtrlAltDel" })).await
}

/// Sends a request that has no answer but its status.
async fn put(socket: &Utf8Path, path: &str, body: &Value) -> io::Result<()> {
    let (status, answer) = timeout(PATIENCE, send(socket, Method::PUT, path, body.to_string())).await??;
    if status.is_success() {
        return Ok(());
    }
    let words = serde_json::from_slice::<Value>(&answer).ok();
    let words =
        words.as_ref().and_then(|words| words["fault_message"].as_str()).unwrap_or("it does not say why");
    Err(io::Error::other(format!("Firecracker answered {status} to {path}: {}", words.escape_default())))
}

async fn send(
    socket: &Utf8Path,
    method: Method,
    path: &str,
    body: String,
) -> io::Result<(StatusCode, Bytes)> {
    let stream = reach::connect(socket).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let reply = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), ANSWER_MAX).collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    /// Answers one request, and returns it.
    async fn answer(reply: &'static str) -> (io::Result<()>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("api");
        let listener = UnixListener::bind(&path).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap();
            stream.write_all(reply.as_bytes()).await.unwrap();
            String::from_utf8(asked[..length].to_vec()).unwrap()
        };
        tokio::join!(press_ctrl_alt_del(&path), server)
    }

    #[tokio::test]
    async fn a_key_is_one_request_and_a_refusal_has_firecrackers_words() {
        let (pressed, asked) = answer("HTTP/1.1 204 \r\nServer: Firecracker API\r\n\r\n").await;
        pressed.unwrap();
        assert!(asked.starts_with("PUT /actions HTTP/1.1\r\n"), "{asked}");
        assert!(asked.ends_with(r#"{"action_type":"SendCtrlAltDel"}"#), "{asked}");
        let (pressed, _) =
            answer("HTTP/1.1 400 \r\nContent-Length: 28\r\n\r\n{\"fault_message\": \"no\\u0007pe\"}").await;
        let error = pressed.unwrap_err().to_string();
        assert!(error.contains("400"), "{error}");
        assert!(press_ctrl_alt_del(Utf8Path::new("/no/such/socket")).await.is_err());
    }
}
