//! The user's own SSH agent, which lists its keys and signs.

use std::{io, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use shed_extensions::ssh::{Key, Sign, Signature};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::wire::{self, MAX_MESSAGE, WireError};

/// How long the agent may take to list its keys. It asks nobody for that, unlike for a signature.
const LIST_LIMIT: Duration = Duration::from_secs(5);

/// Why the agent has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error("SSH_AUTH_SOCK names no socket; start an SSH agent, or set ssh.mode to local-keys")]
    NoSocket,
    #[error("the SSH agent at {socket} cannot be talked to")]
    Io {
        socket: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the SSH agent at {socket} has not listed its keys within {LIST_LIMIT:?}")]
    Silent { socket: Utf8PathBuf },
    #[error("the SSH agent at {socket} has not done it")]
    Wire {
        socket: Utf8PathBuf,
        #[source]
        source: WireError,
    },
}

/// An agent and its socket. Each call is a connection of its own, so that one that waits for a touch delays no other.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    socket: Option<Utf8PathBuf>,
}

impl Agent {
    pub(super) fn new(socket: Option<Utf8PathBuf>) -> Self {
        Self { socket }
    }

    /// Returns the keys, in the agent's order.
    pub(super) async fn keys(&self) -> Result<Vec<Key>, AgentError> {
        let socket = self.socket.as_deref().ok_or(AgentError::NoSocket)?;
        let answer = timeout(LIST_LIMIT, call(socket, &wire::list_request())).await;
        let answer = answer.map_err(|_| AgentError::Silent { socket: socket.to_owned() })??;
        wire::read_keys(&answer).map_err(|source| AgentError::Wire { socket: socket.to_owned(), source })
    }

    /// Has the agent sign; it may ask the user, for as long as the caller waits.
    pub(super) async fn sign(&self, request: &Sign) -> Result<Signature, AgentError> {
        let socket = self.socket.as_deref().ok_or(AgentError::NoSocket)?;
        let wrong = |source| AgentError::Wire { socket: socket.to_owned(), source };
        let message =
            wire::sign_request(&request.public_key.0, &request.data.0, request.flags).map_err(wrong)?;
        wire::read_signature(&call(socket, &message).await?).map_err(wrong)
    }
}

/// Sends a message and returns the answer without its length.
async fn call(socket: &Utf8Path, message: &[u8]) -> Result<Vec<u8>, AgentError> {
    let failed = |source| AgentError::Io { socket: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).await.map_err(failed)?;
    stream.write_all(message).await.map_err(failed)?;
    let length = stream.read_u32().await.map_err(failed)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_MESSAGE);
    let length =
        length.ok_or_else(|| AgentError::Wire { socket: socket.to_owned(), source: WireError::Malformed })?;
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn an_agent_that_says_nonsense_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Utf8Path::from_path(dir.path()).unwrap().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let says: [&[u8]; 4] = [b"", b"\xff\xff\xff\xff", b"\0\0\0\x02\x0c\xff", b"\0\0\0\x01\x05"];
        let server = tokio::spawn(async move {
            for text in says {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; 5]).await.unwrap();
                stream.write_all(text).await.unwrap();
            }
        });
        let agent = Agent::new(Some(socket.clone()));
        for _ in says {
            let error = agent.keys().await.unwrap_err();
            assert!(error.to_string().contains("agent.sock"), "{error}");
        }
        server.await.unwrap();
        std::fs::remove_file(&socket).unwrap();
        assert!(matches!(agent.keys().await, Err(AgentError::Io { .. })));
        assert!(matches!(Agent::new(None).keys().await, Err(AgentError::NoSocket)));
    }
}
