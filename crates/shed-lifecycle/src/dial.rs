//! Connects to a TCP port of a running shed's loopback, through the proxy of its agent (spec B.6).
//!
//! The HTTP server's tunnels, and SSH's forwarding, come here. What the guest answers is bounded in length and time, and
//! its words are cleaned before anybody prints them.

use std::{io, time::Duration};

use shed_backend::GuestStream;
use shed_link::read_line;
use shed_protocol::{
    ConnectReply, ParseConnectError,
    connect::{MAX_LINE, tcp_request_line},
    timeouts,
};
use shed_types::{GuestPort, ShedName, TcpPort};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{ReachGuestError, Sheds};

/// Why there is no connection to a port in a shed.
#[derive(Debug, thiserror::Error)]
pub enum DialGuestError {
    #[error(transparent)]
    Reach(#[from] ReachGuestError),
    #[error("nothing in shed `{shed}` answers on port {port} of its loopback address: {reason}")]
    Refused { shed: ShedName, port: TcpPort, reason: String },
    #[error("shed `{shed}` did not say within {} s whether port {port} can be reached", .waited.as_secs())]
    NoAnswer { shed: ShedName, port: TcpPort, waited: Duration },
    #[error("the agent of shed `{shed}` answered the request for port {port} in another protocol")]
    Protocol {
        shed: ShedName,
        port: TcpPort,
        #[source]
        source: ParseConnectError,
    },
    #[error("the stream into shed `{shed}` broke while port {port} was connected")]
    Broken {
        shed: ShedName,
        port: TcpPort,
        #[source]
        source: io::Error,
    },
}

impl Sheds {
    /// Connects to a TCP port of a running shed's loopback address. The stream begins with the service's first byte.
    ///
    /// # Errors
    /// When the shed does not run, its agent does not answer, or nothing listens on the port.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn dial(&self, name: &ShedName, port: TcpPort) -> Result<GuestStream, DialGuestError> {
        let mut stream = self.connect_guest(name, GuestPort::Tcp).await?;
        let waited = timeouts::TCP_DIAL_REPLY;
        let line = timeout(waited, async {
            stream.write_all(tcp_request_line(port).as_bytes()).await?;
            stream.flush().await?;
            read_line(&mut stream).await
        })
        .await
        .map_err(|_| DialGuestError::NoAnswer { shed: name.clone(), port, waited })?
        .map_err(|source| DialGuestError::Broken { shed: name.clone(), port, source })?;
        match ConnectReply::parse(&line) {
            Ok(ConnectReply::Ok) => Ok(stream),
            Ok(ConnectReply::Refused(reason)) => {
                Err(DialGuestError::Refused { shed: name.clone(), port, reason: clean(&reason) })
            }
            Err(source) => Err(DialGuestError::Protocol { shed: name.clone(), port, source }),
        }
    }
}

/// Makes a guest's words fit for a log and a terminal: printable ASCII, and not many.
fn clean(words: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let text: String = words.chars().take(MAX_LINE).map(printable).collect();
    match text.trim() {
        "" => "the guest does not say why".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_words_are_printable_and_few() {
        assert_eq!(clean("Connection refused (os error 111)"), "Connection refused (os error 111)");
        assert_eq!(clean("\u{1b}[31mred\u{7}\r\n\u{fffd}"), "?[31mred????");
        assert_eq!(clean(" \t"), "?");
        assert_eq!(clean("  "), "the guest does not say why");
        assert_eq!(clean(&"x".repeat(1000)).len(), MAX_LINE);
    }
}
