//! The publish API (127.0.0.1:498, spec B.7): how programs of the guest speak over the plugin bus.
//!
//! Whatever runs in the guest may use it, so everything is bounded: connections, bodies that are being read, requests that
//! wait, and each wait. One request a connection. What is published goes to [`desk`], and by the message channel to the
//! host; nobody here reads a payload, and none is in the log. Web pages in a browser of the guest are refused.

mod body;
pub(crate) mod desk;

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue, ORIGIN},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use shed_protocol::{
    Envelope, EnvelopeKind,
    publish::{PATH, PORT, PublishErrorCode, WAIT},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    body::Publish,
    desk::{Desk, Failure},
};
use crate::log;

/// Pause after a port that cannot be had, before it is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(30);

/// Pause after a failed accept: descriptors have run out, and need time to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long those who wait have to hear that the agent ends (spec B.5).
const DRAIN: Duration = Duration::from_secs(5);

/// What one server of the API takes.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections at a time; more wait in the system's queue.
    connections: usize,
    /// Bodies that are read at a time.
    bodies: usize,
    /// How long a head may take.
    head: Duration,
    /// How long a body may take, with the wait for a place.
    body: Duration,
    /// How long a message waits for its end.
    wait: Duration,
    /// How long the reply may take to be read.
    reply: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            bodies: 64,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            wait: WAIT,
            reply: Duration::from_secs(10),
        }
    }
}

/// The API of a running agent.
pub(crate) struct Publishing {
    desk: Arc<Desk>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Begins to serve the API, as soon as its port can be had: the agent does all else without.
pub(crate) fn begin(desk: &Arc<Desk>) -> Publishing {
    let publishing =
        Publishing { desk: Arc::clone(desk), closing: CancellationToken::new(), tasks: TaskTracker::new() };
    let (desk, tasks) = (Arc::clone(desk), publishing.tasks.clone());
    let closing = publishing.closing.clone();
    let serving = async move {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))).await;
        match accept(&listener, &desk, &tasks, Limits::default()).await {}
    };
    drop(tokio::spawn(async move {
        tokio::select! {
            () = serving => {}
            () = closing.cancelled() => {}
        }
    }));
    publishing
}

impl Publishing {
    /// Takes no more connections, tells those who wait that the agent ends, and lets them read it.
    pub(crate) async fn end(&self) {
        self.closing.cancel();
        self.desk.close();
        let _first = self.tasks.close();
        if timeout(DRAIN, self.tasks.wait()).await.is_err() {
            log::info("some who published messages did not read that the agent ends");
        }
    }
}

/// Takes the port, however long that takes; said once.
async fn bind(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !told => {
                told = true;
                log::error(&format!(
                    "cannot listen on {address}, so extensions of this shed reach nobody until it is free: {error}"
                ));
            }
            Err(_) => {}
        }
        sleep(BIND_PAUSE).await;
    }
}

async fn accept(listener: &TcpListener, desk: &Arc<Desk>, tasks: &TaskTracker, limits: Limits) -> Infallible {
    let places = Arc::new(Semaphore::new(limits.connections));
    let bodies = Arc::new(Semaphore::new(limits.bodies));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (desk, bodies) = (Arc::clone(desk), Arc::clone(&bodies));
                drop(tasks.spawn(async move {
                    let _place = place;
                    serve(stream, &desk, &bodies, limits).await;
                }));
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Answers the one request of a connection. A client that hangs up ends it, and gives its place up.
async fn serve(stream: TcpStream, desk: &Desk, bodies: &Semaphore, limits: Limits) {
    let service = service_fn(|request| async {
        Ok::<_, Infallible>(match answer(request, desk, bodies, limits).await {
            Ok(reply) => reply,
            Err(failure) => refusal(&failure),
        })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let longest = limits.head + limits.body + limits.wait + limits.reply;
    // Whoever is not served in time, or breaks off, hears nothing.
    let _ended = timeout(longest, connection).await;
}

/// What is refused, with a status and a code of its own.
enum Refusal {
    /// Something of the message (spec B.7).
    Publish(Failure),
    /// Something of the HTTP request.
    Http(StatusCode, &'static str, &'static str),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Publish(failure)
    }
}

async fn answer(
    request: Request<Incoming>,
    desk: &Desk,
    bodies: &Semaphore,
    limits: Limits,
) -> Result<Response<Full<Bytes>>, Refusal> {
    if request.headers().contains_key(ORIGIN) {
        let message = "requests with an Origin header come from web pages, and none may publish";
        return Err(Refusal::Http(StatusCode::FORBIDDEN, "FORBIDDEN", message));
    }
    if request.uri().path() != PATH {
        let message = "there is nothing here but POST /v1/publish";
        return Err(Refusal::Http(StatusCode::NOT_FOUND, "NOT_FOUND", message));
    }
    if request.method() != Method::POST {
        let message = "messages are published by POST";
        return Err(Refusal::Http(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message));
    }
    let body = match timeout(limits.body, body::read(request, bodies)).await {
        Ok(body) => body?,
        Err(_) => {
            let message = format!("the body did not arrive within {} s", limits.body.as_secs());
            return Err(Failure::new(PublishErrorCode::InvalidBody, message).into());
        }
    };
    let Publish { namespace, kind, payload } = body::parse(&body)?;
    drop(body);
    match kind {
        EnvelopeKind::Request => {
            let response = desk.request(&namespace, &payload, limits.wait).await?;
            Ok(reply(StatusCode::OK, &response))
        }
        EnvelopeKind::Event => {
            desk.event(&namespace, &payload, limits.wait).await?;
            let mut reply = Response::new(Full::default());
            *reply.status_mut() = StatusCode::ACCEPTED;
            Ok(reply)
        }
        EnvelopeKind::Response => Err(body::invalid_type().into()),
    }
}

fn reply(status: StatusCode, envelope: &Envelope) -> Response<Full<Bytes>> {
    json_reply(status, serde_json::to_vec(envelope).expect("protocol types serialise without error"))
}

fn refusal(refusal: &Refusal) -> Response<Full<Bytes>> {
    let (status, code, message) = match refusal {
        Refusal::Publish(Failure { code, message }) => {
            let status = StatusCode::from_u16(code.status()).expect("the table has HTTP statuses only");
            (status, json!(code), message.as_str())
        }
        Refusal::Http(status, code, message) => (*status, json!(code), *message),
    };
    let body = json!({ "error": { "code": code, "message": message } }).to_string();
    let mut reply = json_reply(status, body.into_bytes());
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let _none = reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    reply
}

fn json_reply(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let _none = reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

#[cfg(test)]
mod tests;
