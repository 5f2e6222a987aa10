//! Asks a running Firecracker over the socket of its API: HTTP/1.1 with JSON (its src/firecracker/swagger).

use std::io;

use camino::Utf8Path;
use hyper::Method;
use serde_json::{Value, json};

use super::reach;
use crate::unix_http;

/// Presses Ctrl-Alt-Del in the guest, which systemd takes for a wish to shut down. Only x86 has the key.
///
/// # Errors
/// When Firecracker does not answer, or refuses; with its words.
pub(super) async fn press_ctrl_alt_del(socket: &Utf8Path) -> io::Result<()> {
    put(socket, "/actions", &json!({ "action_type": "SendCtrlAltDel" })).await
}

/// Sends a request that has no answer but its status.
async fn put(socket: &Utf8Path, path: &str, body: &Value) -> io::Result<()> {
    let answer = unix_http::ask(reach::connect(socket), Method::PUT, path, Some(body)).await?;
    if answer.status.is_success() {
        return Ok(());
    }
    let words = answer.words("fault_message");
    Err(io::Error::other(format!("Firecracker answered {} to {path}: {words}", answer.status)))
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
