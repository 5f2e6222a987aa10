//! A client that logs in as it should and then asks for what nobody asks for.

use std::{future::Future, sync::Arc, time::Duration};

use russh::{ChannelMsg, client};

/// How long anything may take that the server has to answer, on a slow host.
const ANSWER: Duration = Duration::from_secs(120);

/// Accepts any key: what the server's key is, is OpenSSH's to check.
pub(crate) struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _key: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

pub(crate) type Client = client::Handle<Trusting>;

/// What a command came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<u32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs such a client to its end.
///
/// # Panics
/// When that takes longer than any answer may.
#[track_caller]
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(ANSWER, work).await }).expect("the server answers in time")
}

/// Connects, and logs in without a key.
pub(crate) async fn login(port: u16, user: &str) -> Result<Client, russh::Error> {
    let mut client = client::connect(Arc::default(), ("127.0.0.1", port), Trusting).await?;
    let result = client.authenticate_none(user).await?;
    if result.success() { Ok(client) } else { Err(russh::Error::NotAuthenticated) }
}

/// Reads a session to its end.
pub(crate) async fn ended(channel: &mut russh::Channel<client::Msg>) -> Ended {
    let mut ended = Ended::default();
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => ended.stdout.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, .. } => ended.stderr.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => ended.code = Some(exit_status),
            _ => {}
        }
    }
    ended
}

/// Runs one command over a connection of its own.
pub(crate) async fn command(port: u16, user: &str, line: &str) -> Result<Ended, russh::Error> {
    let client = login(port, user).await?;
    let mut channel = client.channel_open_session().await?;
    channel.exec(true, line).await?;
    Ok(ended(&mut channel).await)
}
