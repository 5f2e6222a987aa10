//! One HTTP connection, from accept to close.
//!
//! hyper reads and writes the messages; this room adds what hyper leaves to its user. [`wire`] is the socket as hyper
//! sees it, [`head_timer`] the two waits of spec A.1 where hyper has one, [`refusal`] the reply to what is no HTTP, in
//! the error shape. A reply that hyper cannot be sure the client has read, because the client is still sending, is
//! followed by a lingering close.

mod head_timer;
mod refusal;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use shed_types::error_chain;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use head_timer::{HEAD_TIMEOUT, HeadTimer};
use wire::{RequestBody, Watch};

pub(crate) use wire::Wire;

/// Longest request head, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// How long a client that still sends may take to read a reply. Closing a socket that has unread input resets it
/// (RFC 9293 §3.10.7.1), and the reset takes with it what the client has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// How much of what such a client sends is read and thrown away meanwhile, in bytes.
const LINGER_BYTES: u64 = 64 << 20;

/// Who made the connection of a request; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Answers the requests of a connection until it ends or leaves HTTP, or `closing` is cancelled and the request in
/// progress is answered.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    metrics: &Metrics,
    closing: &CancellationToken,
) {
    let watch = Arc::new(Watch::default());
    let routes = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        watch.request_begins();
        let mut request = request.map(|body| Body::new(RequestBody::new(body, Arc::clone(&watch))));
        let _none = request.extensions_mut().insert(Peer(peer));
        routes.call(request)
    });
    let mut connection = http1::Builder::new()
        .timer(HeadTimer::new(Arc::clone(&watch)))
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // The buffer alone is no exact limit: it grows by the size of a read.
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Wire::new(stream, Arc::clone(&watch))), service)
        .with_upgrades();
    let result = tokio::select! {
        result = &mut connection => result,
        () = closing.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    // An upgraded connection belongs to its stream.
    let Some(parts) = connection.into_parts() else { return };
    let mut stream = parts.io.into_inner().into_stream();
    let mut refused = false;
    if let Err(error) = result {
        tracing::debug!(%peer, error = %error_chain(&error), "connection ended");
        if let Some(reply) = refusal::reply_to(&error, &watch, peer, metrics) {
            refused = true;
            let written = timeout(LINGER, async {
                stream.write_all(&reply).await?;
                stream.shutdown().await
            });
            // Who does not want the reply does not get it.
            let _unread = written.await;
        }
    }
    if refused || watch.has_unread_body() {
        linger(stream).await;
    }
}

/// Reads what the client still sends, until it has read the reply and closes.
async fn linger(stream: TcpStream) {
    let mut rest = stream.take(LINGER_BYTES);
    let mut buffer = vec![0; 16 << 10];
    let drained = async { while let Ok(1..) = rest.read(&mut buffer).await {} };
    let _over = timeout(LINGER, drained).await;
}
