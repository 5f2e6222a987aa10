//! `GET /api/sheds/{name}/exec`: an HTTP connection becomes a stream to the agent's exec service.
//!
//! Everything that can be refused is refused before the `101`, in the order of spec A.8. After it the server only
//! moves bytes: the frames are between the client and the agent, and neither is parsed here.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONNECTION, HeaderValue, UPGRADE},
    },
    response::Response,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use shed_api::{ErrorCode, UPGRADE_EXEC};
use shed_backend::GuestStream;
use shed_types::GuestPort;
use tokio::net::TcpStream;
use tracing::Instrument;

use super::{
    ApiError, App,
    extract::{NamedShed, has_word},
    splice::splice,
    streams::OpenStream,
};
use crate::{connection::Wire, metrics::StreamKind};

/// Not in the API's document: after the upgrade the connection speaks frames, which OpenAPI has no words for, and only
/// clients that share `shed-protocol` with the server can use it.
pub(super) async fn exec(
    State(app): State<App>,
    NamedShed(name): NamedShed,
    mut request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    if !has_word(headers, CONNECTION, "upgrade") || !has_word(headers, UPGRADE, UPGRADE_EXEC) {
        let message =
            format!("an exec needs the headers `Connection: Upgrade` and `Upgrade: {UPGRADE_EXEC}`");
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        let message = "this connection cannot change its protocol; use HTTP/1.1";
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    };
    let guest = app.sheds.connect_guest(&name, GuestPort::Exec).await?;
    let hang_up = app.hang_up.clone();
    let stream = OpenStream::new(&app.metrics, StreamKind::Exec, name);
    let carried = async move {
        tokio::select! {
            () = carry(stream, upgrade, guest) => {}
            () = hang_up.cancelled() => {}
        }
    };
    drop(app.tasks.spawn(carried.in_current_span()));
    Ok(switching_protocols())
}

/// Moves bytes between the client and the guest until both have ended.
async fn carry(stream: OpenStream, upgrade: OnUpgrade, guest: GuestStream) {
    let result = match upgrade.await {
        Ok(upgraded) => {
            let (client, early) = take_apart(upgraded);
            splice(client, &early, guest).await
        }
        // The client went away before it had the reply.
        Err(error) => Err(std::io::Error::other(error)),
    };
    stream.ended(&result);
}

/// Returns the connection itself, free of the layers of HTTP, and the bytes that came behind the headers.
fn take_apart(upgraded: Upgraded) -> (TcpStream, bytes::Bytes) {
    let parts = upgraded
        .downcast::<TokioIo<Wire>>()
        .expect("the server hands its own connections to hyper, and nothing else");
    (parts.io.into_inner().into_stream(), parts.read_buf)
}

fn switching_protocols() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(UPGRADE_EXEC));
    response
}
