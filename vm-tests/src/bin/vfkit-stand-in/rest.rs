//! vfkit's REST interface: the machine's state, changes of it, and what it is made of.
//!
//! Called before the machine is started and served until it has ended. Answers have vfkit's codes: 202 for a change that
//! was asked for, 400 for a body that is no JSON, 500 with the reason for a change that cannot be made.

use std::sync::Arc;

use anyhow::{Context, bail};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State as Extracted,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{log::Log, monitor::Monitor, state::State, urls::RestUri};

/// What the interface shows and changes.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) state: watch::Receiver<State>,
    /// There from the moment on when the machine runs; another one after each reboot.
    pub(crate) monitor: watch::Receiver<Option<Monitor>>,
    pub(crate) inspected: Value,
    pub(crate) log: Log,
}

/// An interface that is served.
#[derive(Debug)]
pub(crate) struct Rest {
    uri: RestUri,
    end: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

#[derive(Debug, Deserialize)]
struct Change {
    #[serde(default)]
    state: String,
}

impl Control {
    async fn change(&self, change: &str) -> anyhow::Result<()> {
        let state = *self.state.borrow();
        let can = state.json();
        let wanted = match change {
            "Pause" => "canPause",
            "Resume" => "canResume",
            "Stop" => "canStop",
            "HardStop" => "canHardStop",
            _ => bail!("invalid new state: {change:?}"),
        };
        let monitor = self.monitor.borrow().clone().context("the machine does not run yet")?;
        if can[wanted] != json!(true) {
            bail!("the machine cannot do {change:?} now: it is {}", can["state"]);
        }
        match change {
            "Pause" => monitor.pause().await,
            "Resume" => monitor.resume().await,
            "Stop" => monitor.press_button().await,
            _ => monitor.quit().await,
        }
    }
}

/// Serves the interface, when one is asked for.
///
/// # Errors
/// When its socket or port cannot be had; as with vfkit, no machine runs then.
pub(crate) async fn serve(uri: &RestUri, control: Arc<Control>) -> anyhow::Result<Option<Rest>> {
    let app = Router::new()
        .route("/vm/state", get(show).post(change))
        .route("/vm/inspect", get(inspect))
        .with_state(control);
    let (end, ended) = oneshot::channel();
    // Also when whoever would say it is gone.
    let ended = async { ended.await.unwrap_or_default() };
    let served = match uri {
        RestUri::None => return Ok(None),
        RestUri::Unix(path) => {
            let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {path}"))?;
            tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(ended).into_future())
        }
        RestUri::Tcp(host) => {
            let listener =
                TcpListener::bind(host).await.with_context(|| format!("cannot listen on {host}"))?;
            tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(ended).into_future())
        }
    };
    Ok(Some(Rest { uri: uri.clone(), end, served }))
}

impl Rest {
    /// Ends it: answers that are due go out first, for a second at most.
    pub(crate) async fn close(self) {
        // It may have ended by itself.
        let _ended = self.end.send(());
        let _late = tokio::time::timeout(std::time::Duration::from_secs(1), self.served).await;
        if let RestUri::Unix(path) = &self.uri {
            let _gone = std::fs::remove_file(path);
        }
    }
}

async fn show(Extracted(control): Extracted<Arc<Control>>) -> Json<Value> {
    Json(control.state.borrow().json())
}

async fn inspect(Extracted(control): Extracted<Arc<Control>>) -> Json<Value> {
    Json(control.inspected.clone())
}

/// The type of the body is not looked at, as in vfkit.
async fn change(Extracted(control): Extracted<Arc<Control>>, body: Bytes) -> Response {
    let refused = |code: StatusCode, error: &str| (code, Json(json!({ "error": error }))).into_response();
    let wanted = match serde_json::from_slice::<Change>(&body) {
        Ok(change) => change.state,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match control.change(&wanted).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(error) => {
            let error = format!("{error:#}");
            control.log.error(&format!("failed action {wanted:?}: {error}"));
            refused(StatusCode::INTERNAL_SERVER_ERROR, &error)
        }
    }
}
