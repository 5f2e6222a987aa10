//! Asks over the plugin bus: one POST to shed-agent's publish API for each request (spec B.7), which waits for the response.
//!
//! Every step has a limit and every response a greatest size. What goes over it is in no error: of a body that is not
//! understood only the place is told.

mod address;
mod error;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use shed_extensions::Reply;
use shed_protocol::publish::{self, PublishErrorCode, PublishRequest};
use shed_protocol::{Envelope, EnvelopeKind};
use tokio::{net::TcpStream, time::timeout};

use self::address::Address;
pub(crate) use self::{address::AddressError, error::BusError};

/// Where the publish API is, for tests and odd places (spec J.3).
const VARIABLE: &str = "SHED_PUBLISH_URL";

/// How long a request may take that nobody has to approve (spec J.3).
pub(crate) const LIMIT: Duration = Duration::from_secs(3);

/// How long one may take that somebody has to approve: a little longer than the agent waits, which then says so itself.
pub(crate) const APPROVED_LIMIT: Duration = publish::WAIT.saturating_add(Duration::from_secs(5));

/// Longest response in bytes. The envelope came in one frame, but may be written with more escapes.
const MAX_RESPONSE: usize = 2 * publish::MAX_BODY;

/// The way to the bus.
#[derive(Debug, Clone)]
pub(crate) struct Bus(Address);

impl Bus {
    /// Takes the URL, which has an address or `localhost` and perhaps a path.
    pub(crate) fn at(url: &str) -> Result<Self, AddressError> {
        Address::parse(url).map(Self)
    }

    /// Takes the URL of the environment, or else the agent's own.
    pub(crate) fn of_environment() -> Result<Self, AddressError> {
        match std::env::var(VARIABLE) {
            Ok(url) if !url.is_empty() => Self::at(&url),
            Ok(_) | Err(_) => Ok(Self(Address::of_agent())),
        }
    }

    /// Asks an extension's other side, and waits at most `limit` for all of it.
    pub(crate) async fn ask<A: DeserializeOwned>(
        &self,
        namespace: &'static str,
        request: &impl Serialize,
        limit: Duration,
    ) -> Result<A, BusError> {
        let publish = PublishRequest {
            namespace: namespace.to_owned(),
            kind: EnvelopeKind::Request,
            payload: serde_json::to_value(request).map_err(|_| BusError::TooLong { namespace })?,
        };
        let body = serde_json::to_vec(&publish).map_err(|_| BusError::TooLong { namespace })?;
        if body.len() > publish::MAX_BODY {
            return Err(BusError::TooLong { namespace });
        }
        let late = BusError::Late { namespace, limit };
        let (status, body) = timeout(limit, self.post(namespace, body)).await.map_err(|_elapsed| late)??;
        if status != StatusCode::OK {
            return Err(refusal(namespace, status, &body));
        }
        let odd = |error: serde_json::Error| BusError::Odd { namespace, place: place(&error) };
        let envelope: Envelope = serde_json::from_slice(&body).map_err(odd)?;
        match Reply::read(envelope.payload).map_err(odd)? {
            Reply::Answer(answer) => Ok(answer),
            Reply::Failure(failure) => Err(BusError::Failed { namespace, failure }),
        }
    }

    async fn post(&self, namespace: &'static str, body: Vec<u8>) -> Result<(StatusCode, Bytes), BusError> {
        let Address { socket, authority, path } = &self.0;
        let unreachable =
            |source| BusError::Unreachable { namespace, url: format!("http://{authority}{path}"), source };
        let stream = TcpStream::connect(socket).await.map_err(unreachable)?;
        let broken = |source| BusError::Broken { namespace, source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| BusError::TooLong { namespace })?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
            Ok((status, body.map_err(|_cut_or_long| BusError::Cut { namespace })?.to_bytes()))
        };
        // The connection has no other use and ends with the exchange.
        tokio::pin!(connection, exchange);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            _ended = &mut connection => exchange.await,
        }
    }
}

/// The body of a refusal (spec A.1).
#[derive(Debug, Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Debug, Deserialize)]
struct ErrorDetail {
    code: Value,
    #[serde(default)]
    message: String,
}

fn refusal(namespace: &'static str, status: StatusCode, body: &[u8]) -> BusError {
    let detail = serde_json::from_slice::<ErrorBody>(body).map(|body| body.error).ok();
    let code = detail.as_ref().and_then(|detail| PublishErrorCode::deserialize(&detail.code).ok());
    let message = detail.map(|detail| detail.message).unwrap_or_default();
    BusError::Refused { namespace, status: status.as_u16(), code, message }
}

/// Where a text went wrong; what else serde says may quote it.
fn place(error: &serde_json::Error) -> String {
    match (error.line(), error.column()) {
        (0, _) => "its shape is another".to_owned(),
        (line, column) => format!("line {line} column {column}"),
    }
}
