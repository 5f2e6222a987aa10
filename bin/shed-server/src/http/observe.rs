//! Around every request: an id, one line in the access log, and a reply in the error shape when the code panics.

use std::{panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use shed_api::ErrorCode;
use tracing::Instrument;
use uuid::Uuid;

use super::ApiError;

/// Names a request in logs of client and server.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a client, in bytes.
const MAX_ID: usize = 64;

pub(super) async fn observe(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default());
    async move {
        let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_panic) => {
                // What it says has gone to stderr through the panic hook.
                tracing::error!(%method, %path, "a panic ended the request");
                let message = "the server has a bug; its log says more under this reply's x-request-id";
                ApiError::new(ErrorCode::InternalError, message).into_response()
            }
        };
        let status = response.status().as_u16();
        // For an event stream and an upgrade this is the time until it began.
        let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
        tracing::info!(%method, %path, status, ms = %format_args!("{milliseconds:.1}"), "request");
        let _old = response.headers_mut().insert(REQUEST_ID, id);
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

#[cfg(test)]
mod tests {
    use axum::{Router, middleware, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    #[tokio::test]
    async fn a_panic_is_an_internal_error_in_the_error_shape_and_harms_no_other_request() {
        async fn panics() -> &'static str {
            panic!("this panic belongs to the test")
        }
        let router = Router::new().route("/panic", get(panics)).route("/fine", get(|| async { "fine" }));
        let router = router.layer(middleware::from_fn(super::observe));
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
    }
}
