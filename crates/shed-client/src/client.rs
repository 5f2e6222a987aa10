//! The calls about the server and its sheds, one method each, and how every call is made.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use shed_api::{CreateShedRequest, ServerInfo, Shed, ShedList, SshHostKey, UPGRADE_EXEC, UPGRADE_TCP};
use shed_types::{ShedName, TcpPort};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    ClientError, EventStream, ExecStream, ServerAddress, TcpTunnel, Timeouts,
    connection::{Call, Content, Reply, send},
    events::{Events, StreamedEvent},
};

/// Media type of server-sent events.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// A server and how long to wait for it. Cheap to make and to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct Client {
    server: ServerAddress,
    timeouts: Timeouts,
}

impl Client {
    /// Makes a client of the server at this address.
    #[must_use]
    pub const fn new(server: ServerAddress, timeouts: Timeouts) -> Self {
        Self { server, timeouts }
    }

    /// Returns the server this client calls.
    #[must_use]
    pub const fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// Returns how long this client waits.
    #[must_use]
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Asks the server about itself.
    ///
    /// # Errors
    /// See [`ClientError`]; this call is refused by no server that is well.
    pub async fn info(&self) -> Result<ServerInfo, ClientError> {
        self.ask(Call::new(Method::GET, "/api/info")).await
    }

    /// Returns the public key of the server's SSH server.
    ///
    /// # Errors
    /// `NOT_FOUND` from a server without one, and see [`ClientError`].
    pub async fn ssh_host_key(&self) -> Result<SshHostKey, ClientError> {
        self.ask(Call::new(Method::GET, "/api/ssh-host-key")).await
    }

    /// Lists the sheds, sorted by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self) -> Result<Vec<Shed>, ClientError> {
        let list: ShedList = self.ask(Call::new(Method::GET, "/api/sheds")).await?;
        Ok(list.sheds)
    }

    /// Returns one shed.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, and see [`ClientError`].
    pub async fn get(&self, name: &ShedName) -> Result<Shed, ClientError> {
        self.ask(Call::new(Method::GET, format!("/api/sheds/{name}"))).await
    }

    /// Creates a shed and returns it running.
    ///
    /// # Errors
    /// The codes of spec A.2 that a create may have, and see [`ClientError`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the create on the server, which then leaves nothing of it.
    pub async fn create(&self, request: &CreateShedRequest) -> Result<Shed, ClientError> {
        self.work(create_call(request, "application/json")).await
    }

    /// Creates a shed and returns its progress, event by event.
    ///
    /// # Errors
    /// What is wrong with the request itself is returned here; what goes wrong later comes as an event.
    ///
    /// # Cancel safety
    /// Dropping the stream before its last event cancels the create.
    pub async fn create_streaming(&self, request: &CreateShedRequest) -> Result<EventStream, ClientError> {
        self.stream(create_call(request, EVENT_STREAM)).await
    }

    /// Starts a stopped shed and returns it running.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `SHED_ALREADY_RUNNING`, `SHED_BUSY`, `BACKEND_ERROR`, and see [`ClientError`].
    ///
    /// # Cancel safety
    /// A start that has begun goes on on the server.
    pub async fn start(&self, name: &ShedName) -> Result<Shed, ClientError> {
        self.work(start_call(name, "application/json")).await
    }

    /// Starts a stopped shed and returns its progress, event by event.
    ///
    /// # Errors
    /// What is wrong with the request itself is returned here; what goes wrong later comes as an event.
    pub async fn start_streaming(&self, name: &ShedName) -> Result<EventStream, ClientError> {
        self.stream(start_call(name, EVENT_STREAM)).await
    }

    /// Stops a running shed and returns it.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `SHED_ALREADY_STOPPED`, `SHED_BUSY`, `BACKEND_ERROR`, and see [`ClientError`].
    pub async fn stop(&self, name: &ShedName) -> Result<Shed, ClientError> {
        self.work(Call::new(Method::POST, format!("/api/sheds/{name}/stop"))).await
    }

    /// Deletes a shed and its data.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `BACKEND_ERROR`, and see [`ClientError`].
    pub async fn delete(&self, name: &ShedName) -> Result<(), ClientError> {
        self.delete_at(format!("/api/sheds/{name}")).await
    }

    /// Deletes a shed and leaves volumes that are not its own disk, where the backend has any.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `BACKEND_ERROR`, and see [`ClientError`].
    pub async fn delete_keeping_volumes(&self, name: &ShedName) -> Result<(), ClientError> {
        self.delete_at(format!("/api/sheds/{name}?keep_volume=true")).await
    }

    /// Deletes what is at the path.
    pub(crate) async fn delete_at(&self, path: String) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, path);
        self.bounded(call, self.timeouts.work, |reply| async { reply.success().await.map(drop) }).await
    }

    /// Opens a stream to the exec service of a shed's agent; the first frame to send is an exec request.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `SHED_NOT_RUNNING`, `CONNECT_FAILED`, and see [`ClientError`].
    pub async fn exec(&self, name: &ShedName) -> Result<ExecStream, ClientError> {
        let (stream, early) = self.upgrade(format!("/api/sheds/{name}/exec"), UPGRADE_EXEC).await?;
        Ok(ExecStream::new(stream, early))
    }

    /// Connects to a TCP port of a shed's loopback address.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `SHED_NOT_RUNNING`, `CONNECT_FAILED` when nothing listens there, and see [`ClientError`].
    pub async fn connect(&self, name: &ShedName, port: TcpPort) -> Result<TcpTunnel, ClientError> {
        let path = format!("/api/sheds/{name}/connect/{port}");
        let (stream, early) = self.upgrade(path, UPGRADE_TCP).await?;
        Ok(TcpTunnel::new(stream, early))
    }

    /// Turns a connection into a stream, and returns it with the bytes that came with the reply's headers.
    async fn upgrade(&self, path: String, protocol: &'static str) -> Result<(TcpStream, Bytes), ClientError> {
        let mut call = Call::new(Method::GET, path);
        call.upgrade = Some(protocol);
        self.bounded(call, self.timeouts.guest, |reply| async move {
            if reply.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(reply.refused_upgrade(protocol).await);
            }
            reply.upgraded().await
        })
        .await
    }

    /// Asks a question that is answered at once.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        self.fetch(call, self.timeouts.reply).await
    }

    /// Asks for work that takes its time.
    pub(crate) async fn work<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        self.fetch(call, self.timeouts.work).await
    }

    async fn fetch<T: DeserializeOwned>(&self, call: Call, limit: Duration) -> Result<T, ClientError> {
        self.bounded(call, limit, Reply::json).await
    }

    /// Asks for events; the reply's headers come at once.
    pub(crate) async fn stream<T: StreamedEvent>(&self, call: Call) -> Result<Events<T>, ClientError> {
        let silence = self.timeouts.silence;
        self.bounded(call, self.timeouts.reply, |reply| async move {
            let reply = reply.success().await?;
            let is_events = reply
                .headers()
                .get(hyper::header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| value.starts_with(EVENT_STREAM));
            if is_events {
                Ok(Events::new(reply, silence))
            } else {
                Err(reply.misunderstood("no event stream"))
            }
        })
        .await
    }

    /// Sends a call and reads its reply, all within `limit`.
    pub(crate) async fn bounded<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        call: Call,
        limit: Duration,
        read: impl FnOnce(Reply) -> F,
    ) -> Result<T, ClientError> {
        let request = call.describe();
        let work = async { read(send(&self.server, self.timeouts.connect, call).await?).await };
        match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut { server: self.server.clone(), request, waited: limit }),
        }
    }
}

impl Reply {
    /// Reads why a server that should have changed the protocol has not.
    async fn refused_upgrade(self, protocol: &str) -> ClientError {
        if self.status().is_success() {
            self.misunderstood(format!("status {} instead of an upgrade to {protocol}", self.status()))
        } else {
            self.into_error().await
        }
    }
}

fn create_call(request: &CreateShedRequest, accept: &'static str) -> Call {
    let body = serde_json::to_vec(request).expect("a create request is plain JSON");
    Call { accept, content: Content::Json(body), ..Call::new(Method::POST, "/api/sheds") }
}

fn start_call(name: &ShedName, accept: &'static str) -> Call {
    Call { accept, ..Call::new(Method::POST, format!("/api/sheds/{name}/start")) }
}
