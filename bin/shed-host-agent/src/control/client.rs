//! The other end of the control socket: `status` and `approvals`.

use std::{io, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use futures::{SinkExt, StreamExt};
use tokio::{net::UnixStream, time::timeout};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use super::{MAX_LINE, Order, Report, place};

/// How long the agent may take to answer; it may have to ask an SSH agent, which has 5 s.
const LIMIT: Duration = Duration::from_secs(10);

/// Why the agent has not said anything.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no shed-host-agent runs; start one with `shed-host-agent run` (nothing answers at {socket})")]
    NotRunning { socket: Utf8PathBuf },
    #[error("could not talk to the shed-host-agent at {socket}")]
    Io {
        socket: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the shed-host-agent at {socket} has not answered within {LIMIT:?}")]
    Silent { socket: Utf8PathBuf },
    #[error("the shed-host-agent at {socket} says what this version does not know; restart it")]
    Misunderstood {
        socket: Utf8PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0}")]
    Failed(String),
}

/// Reports of one order.
#[derive(Debug)]
pub struct Reports {
    socket: Utf8PathBuf,
    lines: Framed<UnixStream, LinesCodec>,
}

/// Gives an order to the agent whose directory this is.
///
/// # Errors
/// When none runs or it cannot be reached.
pub async fn order(directory: &Utf8Path, order: &Order) -> Result<Reports, ControlError> {
    let socket = place::socket(directory);
    let failed = |source| ControlError::Io { socket: socket.clone(), source };
    let stream = match UnixStream::connect(&socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(ControlError::NotRunning { socket });
        }
        Err(error) => return Err(failed(error)),
    };
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
    let line = serde_json::to_string(order).map_err(|error| failed(error.into()))?;
    lines.send(line).await.map_err(|error| failed(plain(error)))?;
    Ok(Reports { socket, lines })
}

impl Reports {
    /// Waits for the only report, or the first one.
    ///
    /// # Errors
    /// When it does not come, or says that the order failed.
    pub async fn first(&mut self) -> Result<Report, ControlError> {
        let socket = self.socket.clone();
        let report = timeout(LIMIT, self.next()).await.map_err(|_| ControlError::Silent { socket })??;
        report.ok_or_else(|| self.failed(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Waits for the next report; none when the agent has ended.
    ///
    /// # Errors
    /// When it cannot be read, or says that the order failed.
    pub async fn next(&mut self) -> Result<Option<Report>, ControlError> {
        let Some(line) = self.lines.next().await else { return Ok(None) };
        let line = line.map_err(|error| self.failed(plain(error)))?;
        match serde_json::from_str(&line) {
            Ok(Report::Failed { error }) => Err(ControlError::Failed(error)),
            Ok(report) => Ok(Some(report)),
            Err(source) => Err(ControlError::Misunderstood { socket: self.socket.clone(), source }),
        }
    }

    fn failed(&self, source: io::Error) -> ControlError {
        ControlError::Io { socket: self.socket.clone(), source }
    }
}

fn plain(error: LinesCodecError) -> io::Error {
    match error {
        LinesCodecError::Io(error) => error,
        LinesCodecError::MaxLineLengthExceeded => io::Error::other(error),
    }
}
