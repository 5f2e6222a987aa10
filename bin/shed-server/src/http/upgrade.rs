//! Requests that leave HTTP behind: the checks before the `101 Switching Protocols`, and the bytes after it (spec A.8).
//!
//! exec and connect use it. Everything that can be refused is refused before the reply; after it the server moves bytes
//! and looks into none of them. There is no idle timeout: a stream lives as long as both its ends do, or this server.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{
        HeaderMap, StatusCode,
        header::{CONNECTION, HeaderValue, UPGRADE},
    },
    response::Response,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use shed_api::ErrorCode;
use shed_backend::GuestStream;
use shed_link::relay::{Broken, FarBreak, Rules, TcpSide, relay};
use shed_types::ShedName;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tracing::Instrument;

use super::{ApiError, App, extract::has_word};
use crate::{connection::Wire, metrics::StreamKind, streams::OpenStream};

/// How long a client may take to read the last of what a guest said that listens no more.
const LINGER: Duration = Duration::from_secs(10);

/// A protocol that a connection may change to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Protocol {
    /// Value of the `Upgrade` header.
    pub(super) name: &'static str,
    /// Begins the sentence that says what is needed: `an exec`.
    pub(super) what: &'static str,
    /// What the metrics and the log call it.
    pub(super) kind: StreamKind,
    /// What the client makes of a guest that breaks off.
    pub(super) guest_break: FarBreak,
}

impl Protocol {
    /// Refuses a request without the headers that ask for this protocol.
    pub(super) fn is_asked_for(self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Self { name, what, .. } = self;
        if has_word(headers, CONNECTION, "upgrade") && has_word(headers, UPGRADE, name) {
            return Ok(());
        }
        let message = format!("{what} needs the headers `Connection: Upgrade` and `Upgrade: {name}`");
        Err(ApiError::new(ErrorCode::InvalidRequest, message))
    }
}

/// A request that may change its protocol, and the place among the streams that it will take.
#[derive(Debug)]
pub(super) struct Upgrade {
    protocol: Protocol,
    connection: OnUpgrade,
    place: OwnedSemaphorePermit,
}

impl Upgrade {
    /// Checks whether the request's connection can leave HTTP, and takes a place for it.
    pub(super) fn of(request: &mut Request, app: &App, protocol: Protocol) -> Result<Self, ApiError> {
        let what = protocol.what;
        // Its bytes could not be told from those of the new protocol.
        if !request.body().is_end_stream() {
            let message =
                format!("a request for {what} has no body; send the first bytes behind the headers");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        let Some(connection) = request.extensions_mut().remove::<OnUpgrade>() else {
            let message = "this connection cannot change its protocol; use HTTP/1.1";
            return Err(ApiError::new(ErrorCode::HijackUnsupported, message));
        };
        let Ok(place) = app.streams.clone().try_acquire_owned() else {
            let message = "this server carries as many streams as its limit of open files allows; close some, or raise \
                           the limit (LimitNOFILE of its systemd unit, or `ulimit -n`)";
            return Err(ApiError::new(ErrorCode::ConnectFailed, message));
        };
        Ok(Self { protocol, connection, place })
    }

    /// Returns the reply, and moves bytes between the client and the guest from then on until both have ended.
    pub(super) fn carry(self, app: &App, name: ShedName, guest: GuestStream) -> Response {
        let Self { protocol, connection, place } = self;
        let hang_up = app.hang_up.clone();
        let stream = OpenStream::new(&app.metrics, protocol.kind, name);
        let carried = async move {
            let _place = place;
            carry(stream, protocol, connection, guest, hang_up.cancelled()).await;
        };
        drop(app.tasks.spawn(carried.in_current_span()));
        switching_to(protocol.name)
    }
}

async fn carry(
    stream: OpenStream,
    protocol: Protocol,
    connection: OnUpgrade,
    guest: GuestStream,
    hang_up: impl Future<Output = ()>,
) {
    let (client, early) = match connection.await {
        Ok(upgraded) => take_apart(upgraded),
        // The client went away before it had the reply.
        Err(error) => return stream.ended(&Err(Broken::Near(std::io::Error::other(error)))),
    };
    let side = TcpSide::new(&client);
    let rules = Rules { far_break: protocol.guest_break, linger: LINGER };
    let result = tokio::select! {
        end = relay(side, &early, guest, rules) => end,
        error = side.gone() => Err(Broken::Near(error)),
        () = hang_up => Err(Broken::Far(std::io::Error::other("the server ends"))),
    };
    if matches!((&result, protocol.guest_break), (Err(Broken::Far(_)), FarBreak::IsAnError)) {
        side.break_off();
    }
    stream.ended(&result);
}

/// Returns the connection itself, free of the layers of HTTP, and the bytes that came behind the headers.
fn take_apart(upgraded: Upgraded) -> (TcpStream, bytes::Bytes) {
    let parts = upgraded
        .downcast::<TokioIo<Wire>>()
        .expect("the server hands its own connections to hyper, and nothing else");
    (parts.io.into_inner().into_stream(), parts.read_buf)
}

fn switching_to(protocol: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}
