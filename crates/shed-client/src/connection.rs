//! One request on one connection: connects, sends, and hands the reply over with its body still unread.

use std::{io, pin::Pin, time::Duration};

use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited, StreamBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, UPGRADE, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use shed_api::ErrorBody;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{ClientError, ServerAddress};

/// Longest reply that is read whole. The largest is the disk usage of ten thousand sheds, each with some ten files
/// whose paths may be long.
const MAX_REPLY: usize = 64 << 20;

/// Longest error body that is read; more of it would not be shown.
const MAX_ERROR: usize = 1 << 20;

/// What a request carries.
pub(crate) enum Content {
    /// Nothing.
    Nothing,
    /// JSON.
    Json(Vec<u8>),
    /// What comes, as it comes.
    Stream { media_type: &'static str, body: Streamed },
}

/// A body that is made while it is sent.
pub(crate) type Streamed = StreamBody<Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>>;

/// The body of any request.
type Body = Either<Full<Bytes>, Streamed>;

/// A request before it is sent.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query; made of checked names and encoded values only.
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    pub(crate) content: Content,
    /// Protocol to upgrade to.
    pub(crate) upgrade: Option<&'static str>,
}

impl Call {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            accept: "application/json",
            content: Content::Nothing,
            upgrade: None,
        }
    }

    /// Returns the request as error messages name it.
    pub(crate) fn describe(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// A reply whose body is unread. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Reply {
    server: ServerAddress,
    request: String,
    response: Response<Incoming>,
    connection: AbortOnDropHandle<()>,
}

/// Connects and sends, and returns when the reply's headers are there.
pub(crate) async fn send(
    server: &ServerAddress,
    connect_timeout: Duration,
    call: Call,
) -> Result<Reply, ClientError> {
    let request = call.describe();
    let stream = connect(server, connect_timeout).await?;
    let broken = |source: hyper::Error| ClientError::Broken {
        server: server.clone(),
        request: request.clone(),
        source: source.into(),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            // The request in flight gets the same error and reports it.
            tracing::debug!(%error, "connection ended");
        }
    }));
    let message = build(server, call).map_err(|error| ClientError::Protocol {
        server: server.clone(),
        request: request.clone(),
        reason: error.to_string(),
    })?;
    let response = sender.send_request(message).await.map_err(broken)?;
    Ok(Reply { server: server.clone(), request, response, connection })
}

async fn connect(server: &ServerAddress, limit: Duration) -> Result<TcpStream, ClientError> {
    let unreachable = |source| ClientError::Unreachable { server: server.clone(), source };
    let stream = match timeout(limit, TcpStream::connect((server.host(), server.port()))).await {
        Ok(stream) => stream.map_err(unreachable)?,
        Err(_) => {
            return Err(ClientError::TimedOut {
                server: server.clone(),
                request: "a request for a connection".to_owned(),
                waited: limit,
            });
        }
    };
    // Requests and frames are small and each is waited for.
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

fn build(server: &ServerAddress, call: Call) -> Result<Request<Body>, hyper::http::Error> {
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.path)
        .header(HOST, server.to_string())
        .header(USER_AGENT, concat!("shed/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, call.accept);
    let body = match call.content {
        Content::Nothing => Either::Left(Full::default()),
        Content::Json(json) => {
            request = request.header(CONTENT_TYPE, "application/json");
            Either::Left(Full::new(json.into()))
        }
        Content::Stream { media_type, body } => {
            request = request.header(CONTENT_TYPE, media_type);
            Either::Right(body)
        }
    };
    request = match call.upgrade {
        Some(protocol) => request.header(CONNECTION, "Upgrade").header(UPGRADE, protocol),
        None => request.header(CONNECTION, "close"),
    };
    request.body(body)
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Makes the error that says this reply is not what the API promises.
    pub(crate) fn misunderstood(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Protocol {
            server: self.server.clone(),
            request: self.request.clone(),
            reason: reason.into(),
        }
    }

    /// Passes on a success; turns everything else into the error it carries.
    pub(crate) async fn success(self) -> Result<Self, ClientError> {
        if self.status().is_success() { Ok(self) } else { Err(self.into_error().await) }
    }

    /// Reads a success's body as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let reply = self.success().await?;
        let (server, request) = (reply.server.clone(), reply.request.clone());
        let body = reply.read(MAX_REPLY).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Protocol {
            server,
            request,
            reason: error.to_string(),
        })
    }

    /// Reads the error of a reply that is no success.
    pub(crate) async fn into_error(self) -> ClientError {
        let status = self.status();
        let (server, request) = (self.server.clone(), self.request.clone());
        let body = match self.read(MAX_ERROR).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => {
                ClientError::Api { status: status.as_u16(), code: error.code, message: error.message }
            }
            Err(_) => ClientError::Protocol {
                server,
                request,
                reason: format!("status {status} without the error body of a shed-server; is it one?"),
            },
        }
    }

    /// Takes the reply apart for reading piece by piece.
    pub(crate) fn into_stream(self) -> (Incoming, AbortOnDropHandle<()>, ServerAddress, String) {
        (self.response.into_body(), self.connection, self.server, self.request)
    }

    /// Waits until the connection has changed its protocol, and returns it with the bytes that came early.
    pub(crate) async fn upgraded(self) -> Result<(TcpStream, Bytes), ClientError> {
        let Self { server, request, response, connection } = self;
        let upgraded = hyper::upgrade::on(response).await.map_err(|source| ClientError::Broken {
            server: server.clone(),
            request: request.clone(),
            source: source.into(),
        })?;
        drop(connection);
        let parts = upgraded
            .downcast::<TokioIo<TcpStream>>()
            .expect("the connection was made of a TcpStream a few lines above");
        Ok((parts.io.into_inner(), parts.read_buf))
    }

    async fn read(self, limit: usize) -> Result<Bytes, ClientError> {
        let (body, _connection, server, request) = self.into_stream();
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(source) if source.is::<LengthLimitError>() => {
                let reason = format!("the reply has more than {limit} bytes");
                Err(ClientError::Protocol { server, request, reason })
            }
            Err(source) => Err(ClientError::Broken { server, request, source }),
        }
    }
}
