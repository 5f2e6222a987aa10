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
use shed_types::{GuestPort, ShedName};
use tokio::net::TcpStream;

use super::{
    ApiError, App,
    extract::{NamedShed, has_word},
    splice::splice,
};

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
    drop(app.tasks.spawn(async move {
        tokio::select! {
            () = carry(&name, upgrade, guest) => {}
            () = hang_up.cancelled() => tracing::debug!(shed = %name, "exec cut off: the server ends"),
        }
    }));
    Ok(switching_protocols())
}

/// Moves bytes between the client and the guest until both have ended.
async fn carry(name: &ShedName, upgrade: OnUpgrade, guest: GuestStream) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(shed = %name, %error, "the client of an exec went away before the upgrade");
            return;
        }
    };
    let (client, early) = take_apart(upgraded);
    match splice(client, &early, guest).await {
        Ok(moved) => tracing::debug!(shed = %name, ?moved, "exec ended"),
        Err(error) => tracing::debug!(shed = %name, %error, "exec broke off"),
    }
}

/// Returns the connection itself, free of the layers of HTTP, and the bytes that came behind the headers.
fn take_apart(upgraded: Upgraded) -> (TcpStream, bytes::Bytes) {
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .expect("the server hands TCP connections to hyper, and nothing else");
    (parts.io.into_inner(), parts.read_buf)
}

fn switching_protocols() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(UPGRADE_EXEC));
    response
}
