//! A client of SSH that says what no program would, for the tests beside this one.

use std::sync::Arc;

use russh::{
    Channel, ChannelMsg, Pty,
    client::{self, Handle, Msg},
    keys::PublicKeyOrCertificate,
};
use tokio::time::timeout;

use crate::{api::Api, common::PATIENCE};

/// Takes whichever server answers.
#[derive(Debug)]
pub(crate) struct Anyone;

impl client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

pub(crate) type Client = Handle<Anyone>;

/// Connects without logging in.
pub(crate) async fn connect_with(api: &Api, mut config: client::Config) -> Client {
    config.nodelay = true;
    let connected = client::connect(Arc::new(config), ("127.0.0.1", api.ssh_port), Anyone);
    timeout(PATIENCE, connected).await.expect("a handshake").unwrap()
}

/// Logs in as a shed.
pub(crate) async fn login(api: &Api, user: &str) -> Client {
    login_with(api, user, client::Config::default()).await
}

pub(crate) async fn login_with(api: &Api, user: &str, config: client::Config) -> Client {
    let mut client = connect_with(api, config).await;
    let answer = timeout(PATIENCE, client.authenticate_none(user)).await.expect("an answer").unwrap();
    assert!(answer.success(), "{answer:?}");
    client
}

pub(crate) async fn session(client: &Client) -> Channel<Msg> {
    timeout(PATIENCE, client.channel_open_session()).await.expect("an answer").unwrap()
}

pub(crate) async fn next(channel: &mut Channel<Msg>) -> Option<ChannelMsg> {
    timeout(PATIENCE, channel.wait()).await.expect("a message of the server")
}

/// Returns whether the request that was made last succeeded; what else comes before the answer must not matter.
pub(crate) async fn answer(channel: &mut Channel<Msg>) -> bool {
    loop {
        match next(channel).await {
            Some(ChannelMsg::Success) => return true,
            Some(ChannelMsg::Failure) => return false,
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            other => panic!("{other:?} is no answer"),
        }
    }
}

pub(crate) async fn pty(channel: &mut Channel<Msg>) -> bool {
    channel.request_pty(true, "xterm", 80, 24, 0, 0, &[(Pty::ECHO, 1)]).await.unwrap();
    answer(channel).await
}

/// What a session said until it was closed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) code: Option<u32>,
    pub(crate) signal: Option<String>,
    /// Whether EOF came before the end.
    pub(crate) eof: bool,
}

/// Reads a session to its end.
pub(crate) async fn to_the_end(channel: &mut Channel<Msg>) -> Said {
    let mut said = Said::default();
    while let Some(message) = next(channel).await {
        match message {
            ChannelMsg::Data { data } => said.stdout.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, ext: 1 } => said.stderr += std::str::from_utf8(&data).unwrap(),
            ChannelMsg::ExitStatus { exit_status } => said.code = Some(exit_status),
            ChannelMsg::ExitSignal { signal_name, .. } => said.signal = Some(format!("{signal_name:?}")),
            ChannelMsg::Eof => said.eof = true,
            ChannelMsg::Close => break,
            ChannelMsg::WindowAdjusted { .. } | ChannelMsg::Success => {}
            other => panic!("{other:?}"),
        }
    }
    said
}

/// Runs a command and returns what it said.
pub(crate) async fn exec(client: &Client, command: impl Into<Vec<u8>>) -> Said {
    let mut channel = session(client).await;
    channel.exec(true, command).await.unwrap();
    assert!(answer(&mut channel).await);
    channel.eof().await.unwrap();
    to_the_end(&mut channel).await
}
