//! What is done with what the server sends: its host key is compared, its data queued.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use russh::{
    ChannelId,
    client::{self, DisconnectReason, Session},
    keys::PublicKeyOrCertificate,
};
use tokio::sync::oneshot;

use super::{host_key::HostKey, intake};

/// Longest text of a server's last words that is kept, in characters.
const FAREWELL_MAX: usize = 200;

/// Why a connection fails while it is made.
#[derive(Debug)]
pub(super) enum Failure {
    /// No key is pinned.
    Unknown { seen: HostKey },
    /// Other keys are pinned.
    Changed { seen: HostKey, pinned: HostKey },
    /// All else.
    Ssh(russh::Error),
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

/// What the handler, which the connection owns, leaves for the caller.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    farewell: Mutex<Option<String>>,
}

impl Verdict {
    /// Returns what the server said when it hung up.
    pub(super) fn farewell(&self) -> Option<String> {
        self.farewell.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One connection's handler.
#[derive(Debug)]
pub(super) struct Handler {
    pinned: Vec<HostKey>,
    intake: intake::Sender,
    /// Waits for the answer to the one request that asks for one.
    accepted: Option<oneshot::Sender<bool>>,
    verdict: Arc<Verdict>,
}

impl Handler {
    pub(super) fn new(
        pinned: Vec<HostKey>,
        intake: intake::Sender,
        accepted: oneshot::Sender<bool>,
        verdict: Arc<Verdict>,
    ) -> Self {
        Self { pinned, intake, accepted: Some(accepted), verdict }
    }

    fn answer(&mut self, accepted: bool) {
        if let Some(waiting) = self.accepted.take() {
            // Nobody waits any more when the caller has given up.
            let _given_up = waiting.send(accepted);
        }
    }
}

/// Whatever ends the connection ends the stream.
impl Drop for Handler {
    fn drop(&mut self) {
        self.intake.end();
    }
}

impl client::Handler for Handler {
    type Error = Failure;

    /// The key exchange has proved that the server has the private key. Certificates are not known here: their key
    /// counts as any other.
    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Failure> {
        let seen = HostKey::new(&shown.public_key());
        match self.pinned.first() {
            None => Err(Failure::Unknown { seen }),
            Some(_) if self.pinned.contains(&seen) => Ok(true),
            Some(pinned) => Err(Failure::Changed { seen, pinned: pinned.clone() }),
        }
    }

    async fn data(&mut self, _: ChannelId, data: &[u8], _: &mut Session) -> Result<(), Failure> {
        // The queue is full at times; the stream then reads no more, and nothing waits here.
        self.intake.push(Bytes::copy_from_slice(data));
        Ok(())
    }

    async fn channel_success(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Failure> {
        self.answer(true);
        Ok(())
    }

    async fn channel_failure(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Failure> {
        // What has come is a refusal, and nothing comes after it.
        self.intake.end();
        self.answer(false);
        Ok(())
    }

    async fn channel_eof(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Failure> {
        self.intake.end();
        Ok(())
    }

    async fn channel_close(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Failure> {
        self.intake.end();
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Failure>) -> Result<(), Failure> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                let text: String = info.message.chars().take(FAREWELL_MAX).collect();
                if text.is_empty() {
                    self.intake.end();
                } else {
                    self.intake.fail(io::Error::other(format!("the server hung up: {text}")));
                    *self.verdict.farewell.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                }
                Ok(())
            }
            DisconnectReason::Error(Failure::Ssh(russh::Error::IO(error))) => {
                // A connection that was closed may be closed within a packet.
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    self.intake.end();
                } else {
                    self.intake.fail(error);
                }
                Ok(())
            }
            DisconnectReason::Error(Failure::Ssh(russh::Error::Disconnect | russh::Error::HUP)) => {
                self.intake.end();
                Ok(())
            }
            DisconnectReason::Error(Failure::Ssh(error)) => {
                self.intake.fail(io::Error::other(error));
                Ok(())
            }
            DisconnectReason::Error(failure @ (Failure::Unknown { .. } | Failure::Changed { .. })) => {
                Err(failure)
            }
        }
    }
}
