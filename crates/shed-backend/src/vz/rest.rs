//! Asks a running vfkit over the socket of its REST interface (vfkit's documentation, "RESTful API").
//!
//! Called when a machine has been started, when its power button is pressed and when it is ended. Answers other than the ones that
//! vfkit documents are errors in its own words.

use std::io;

use camino::Utf8Path;
use hyper::Method;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::unix_http::{self, Answer};

const STATE: &str = "/vm/state";

/// How far a machine is, as far as anybody here needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It runs.
    Running,
    /// It comes up.
    Starting,
    /// Something else; vfkit's word for it.
    Other(String),
}

/// Asks how far the machine is.
///
/// # Errors
/// When vfkit does not answer, or with something that is no state.
pub(super) async fn state(socket: &Utf8Path) -> io::Result<State> {
    let answer = ask(socket, Method::GET, None).await?;
    let document = answer.document();
    let state = document.as_ref().and_then(|document| document["state"].as_str());
    let state = state.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "vfkit answered no state"))?;
    Ok(match state.strip_prefix("VirtualMachineState") {
        Some("Running") => State::Running,
        Some("Starting") => State::Starting,
        Some(_) | None => {
            State::Other(state.chars().take(40).collect::<String>().escape_default().to_string())
        }
    })
}

/// Presses the power button in the guest, which may not notice.
///
/// # Errors
/// When vfkit does not answer, or refuses; with its words.
pub(super) async fn press_power_button(socket: &Utf8Path) -> io::Result<()> {
    change(socket, "Stop").await
}

/// Switches the machine off, whatever the guest does. vfkit ends when it is off.
///
/// # Errors
/// When vfkit does not answer, or refuses; with its words.
pub(super) async fn switch_off(socket: &Utf8Path) -> io::Result<()> {
    change(socket, "HardStop").await
}

async fn change(socket: &Utf8Path, state: &str) -> io::Result<()> {
    ask(socket, Method::POST, Some(&json!({ "state": state }))).await.map(drop)
}

async fn ask(socket: &Utf8Path, method: Method, body: Option<&Value>) -> io::Result<Answer> {
    let answer = unix_http::ask(UnixStream::connect(socket), method, STATE, body).await?;
    if answer.status.is_success() {
        return Ok(answer);
    }
    let words = answer.words("error");
    Err(io::Error::other(format!("vfkit answered {} to {STATE}: {words}", answer.status)))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc, sync::Mutex};

    use camino::Utf8PathBuf;
    use http_body_util::{BodyExt as _, Full};
    use hyper::{
        Request, Response,
        body::{Bytes, Incoming},
        server::conn::http1,
        service::service_fn,
    };
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixListener;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// A vfkit that gives the same answer to everything.
    struct Vfkit {
        asked: Arc<Mutex<Vec<String>>>,
        socket: Utf8PathBuf,
        _dir: tempfile::TempDir,
        _server: AbortOnDropHandle<()>,
    }

    fn vfkit(status: u16, answer: &'static str) -> Vfkit {
        let dir = tempfile::tempdir().unwrap();
        let socket = Utf8Path::from_path(dir.path()).unwrap().join("api-rest.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        let serve = move |request: Request<Incoming>| {
            let heard = Arc::clone(&heard);
            async move {
                let line = format!("{} {} ", request.method(), request.uri());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                heard.lock().unwrap().push(line + str::from_utf8(&body).unwrap());
                let reply = Response::builder().status(status).body(Full::new(Bytes::from(answer)));
                Ok::<_, Infallible>(reply.unwrap())
            }
        };
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(&serve));
                // Whoever asks goes when it has its answer.
                let _gone = served.await;
            }
        });
        Vfkit { asked, socket, _dir: dir, _server: AbortOnDropHandle::new(server) }
    }

    #[tokio::test]
    async fn the_two_ways_to_stop_are_two_requests() {
        let vfkit = vfkit(202, "");
        press_power_button(&vfkit.socket).await.unwrap();
        switch_off(&vfkit.socket).await.unwrap();
        assert_eq!(
            *vfkit.asked.lock().unwrap(),
            [r#"POST /vm/state {"state":"Stop"}"#, r#"POST /vm/state {"state":"HardStop"}"#]
        );
    }

    #[tokio::test]
    async fn a_state_is_read_and_an_unknown_one_is_named() {
        let running = vfkit(200, r#"{"state":"VirtualMachineStateRunning","canStop":true}"#);
        assert_eq!(state(&running.socket).await.unwrap(), State::Running);
        assert_eq!(*running.asked.lock().unwrap(), ["GET /vm/state "]);
        let starting = vfkit(200, r#"{"state":"VirtualMachineStateStarting"}"#);
        assert_eq!(state(&starting.socket).await.unwrap(), State::Starting);
        let odd = vfkit(200, r#"{"state":"a\u001bb"}"#);
        assert_eq!(state(&odd.socket).await.unwrap(), State::Other(r"a\u{1b}b".to_owned()));
    }

    #[tokio::test]
    async fn refusals_and_nonsense_are_errors() {
        let refusing = vfkit(500, r#"{"error":"invalid virtual machine state transition"}"#);
        let error = press_power_button(&refusing.socket).await.unwrap_err().to_string();
        assert!(error.contains("500") && error.contains("state transition"), "{error}");
        for nonsense in ["", "[]", r#"{"state":7}"#, "VirtualMachineStateRunning"] {
            assert!(state(&vfkit(200, nonsense).socket).await.is_err(), "{nonsense}");
        }
        let error = switch_off(Utf8Path::new("/no/such/socket")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
