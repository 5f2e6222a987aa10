//! Around every request: an id, one line in the access log, a count, and a reply in the error shape when the code panics.
//!
//! A reply of events gets a second line when it ends, with what it sent; [`crate::streams`] does the same for
//! connections that leave HTTP. A request whose client went away before the reply is logged and counted as 499, as
//! other servers do; no client ever sees that status.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header::USER_AGENT},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use hyper::body::{Frame, SizeHint};
use shed_api::ErrorCode;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::ApiError;
use crate::{
    connection::Peer,
    metrics::{Metrics, Open, StreamKind, UNMATCHED},
    shown::Shown,
    streams::millis,
};

/// Names a request in logs of client and server.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a client, in bytes.
const MAX_ID: usize = 64;

/// Most characters of a path with its query that are logged.
const MAX_PATH: usize = 512;

/// Most characters of a client's description of itself that are logged.
const MAX_AGENT: usize = 100;

/// Most characters of a method that are logged; the longest that means anything here has 7.
const MAX_METHOD: usize = 20;

/// Status that stands for a client that went away before the reply.
const CLIENT_GONE: u16 = 499;

pub(super) async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default());
    let mut line = Line::of(&request, metrics.clone(), span.clone());
    async move {
        let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_panic) => {
                // What it says has gone to stderr through the panic hook.
                tracing::error!(route = line.route, "a panic ended the request");
                let message = "the server has a bug; its log says more under this reply's x-request-id";
                ApiError::new(ErrorCode::InternalError, message).into_response()
            }
        };
        let length = response.body().size_hint().exact();
        line.answered = Some((response.status(), length));
        drop(line);
        let _old = response.headers_mut().insert(REQUEST_ID, id);
        if length.is_none() {
            let stream = metrics.stream(StreamKind::Events);
            response = response.map(|body| Body::new(Events::new(body, stream, Span::current())));
        }
        response
    }
    .instrument(span)
    .await
}

/// Takes over the client's id when it is fit for a log, else makes one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        (1..=MAX_ID).contains(&id.len())
            && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    });
    given.cloned().unwrap_or_else(|| {
        HeaderValue::try_from(Uuid::new_v4().simple().to_string()).expect("hexadecimal digits fit a header")
    })
}

/// A line of the access log; written, and the request counted, when it is dropped.
struct Line {
    begun: Instant,
    metrics: Metrics,
    span: Span,
    method: Method,
    /// With its query: no parameter of this API is a secret.
    path: String,
    route: String,
    peer: Option<Peer>,
    agent: Option<String>,
    /// The status, and the length of the body unless it is a stream.
    answered: Option<(StatusCode, Option<u64>)>,
}

impl Line {
    fn of(request: &Request, metrics: Metrics, span: Span) -> Self {
        let uri = request.uri();
        let path = uri.path_and_query().map_or(uri.path(), |path| path.as_str());
        let route = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str);
        let agent = request.headers().get(USER_AGENT);
        Self {
            begun: Instant::now(),
            metrics,
            span,
            method: request.method().clone(),
            path: Shown(path, MAX_PATH).to_string(),
            route: route.to_owned(),
            peer: request.extensions().get::<Peer>().copied(),
            agent: agent
                .map(|agent| String::from_utf8_lossy(agent.as_bytes()).chars().take(MAX_AGENT).collect()),
            answered: None,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        let (status, bytes) = match self.answered {
            Some((status, bytes)) => (status, bytes),
            None => (StatusCode::from_u16(CLIENT_GONE).expect("499 has the form of a status"), None),
        };
        self.metrics.request(&self.method, &self.route, status, took);
        let _entered = self.span.enter();
        tracing::info!(
            method = %Shown(self.method.as_str(), MAX_METHOD),
            path = %self.path,
            status = status.as_u16(),
            ms = %millis(took),
            bytes,
            peer = self.peer.map(|peer| tracing::field::display(peer.0)),
            agent = self.agent.as_deref().map(tracing::field::debug),
            "request"
        );
    }
}

/// The body of a reply of events; logged when it ends, whoever ends it.
struct Events {
    body: Body,
    begun: Instant,
    sent: u64,
    complete: bool,
    span: Span,
    _open: Open,
}

impl Events {
    fn new(body: Body, open: Open, span: Span) -> Self {
        Self { body, begun: Instant::now(), sent: 0, complete: false, span, _open: open }
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(None) => self.complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        tracing::info!(
            kind = StreamKind::Events.as_str(),
            to_client = self.sent,
            complete = self.complete,
            ms = %millis(self.begun.elapsed()),
            "stream ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_panic_is_an_internal_error_in_the_error_shape_and_harms_no_other_request() {
        async fn panics() -> &'static str {
            panic!("this panic belongs to the test")
        }
        let metrics = Metrics::new("1");
        let router = Router::new().route("/panic", get(panics)).route("/fine", get(|| async { "fine" }));
        let router = router.layer(middleware::from_fn_with_state(metrics.clone(), super::observe));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        for (path, status, body) in
            [("/panic", "500", r#"{"error":{"code":"INTERNAL_ERROR","#), ("/fine", "200", "fine")]
        {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
            assert!(reply.contains("x-request-id: ") && reply.contains(body), "{reply}");
        }
        server.abort();
        let counted = r#"shed_http_requests_total{method="GET",route="/panic",status="500"} 1"#;
        assert!(metrics.render(&[], None).lines().any(|line| line == counted));
    }
}
