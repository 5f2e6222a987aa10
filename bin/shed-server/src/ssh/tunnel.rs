//! A forwarded connection: `direct-tcpip` to a port of the guest's loopback (spec F).

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use russh::{ChannelOpenFailure, server::ChannelOpenHandle};
use shed_api::ErrorCode;
use shed_link::relay::{Broken, FarBreak, Rules, relay};
use shed_types::TcpPort;
use tokio::time::sleep;

use super::{
    Shared,
    arrive::{Arrival, Refusal, arrive, find_running},
    channels::Inlet,
    output::Output,
    side::{ChannelSide, GuestEnd},
};
use crate::{metrics::StreamKind, shown::Shown, streams::OpenStream};

/// How long what a client sent before it closed may take to reach the guest, and what a guest said that listens no
/// more to be read.
const LINGER: Duration = Duration::from_secs(10);

/// How long a client may take to close a tunnel that is done.
const CLIENT_CLOSES: Duration = Duration::from_secs(1);

/// The names of the guest itself; a tunnel leads nowhere else.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Reason code of an open that could not be connected (RFC 4254 5.1).
const CONNECT_FAILED: u32 = 2;

/// Reason code of an open that is not allowed.
const PROHIBITED: u32 = 1;

/// Most characters of a host name that an answer repeats.
const MAX_SHOWN: usize = 80;

/// Reads the target of a tunnel.
pub(super) fn target(host: &str, port: u32) -> Result<TcpPort, ChannelOpenFailure> {
    let prohibited = |reason| ChannelOpenFailure::Other { code: PROHIBITED, reason };
    if !LOOPBACK.iter().any(|name| host.eq_ignore_ascii_case(name)) {
        let shown = Shown(host, MAX_SHOWN);
        return Err(prohibited(format!(
            "'{shown}' is not the shed itself; forward to localhost, 127.0.0.1 or ::1"
        )));
    }
    let number = u16::try_from(port).ok().and_then(TcpPort::new);
    number.ok_or_else(|| prohibited(format!("{port} is not a port: it must be a number from 1 to 65535")))
}

/// Connects and answers the request to open, then moves bytes until both ends are done.
pub(super) async fn run(
    shared: &Shared,
    user: &str,
    port: TcpPort,
    reply: ChannelOpenHandle,
    inlet: &Inlet,
    output: &Output,
    has_arrived: &AtomicBool,
) {
    let connected = tokio::select! {
        biased;
        () = inlet.gone.cancelled() => return,
        () = shared.hang_up.cancelled() => Err(Refusal::new(ErrorCode::ShuttingDown, "shed-server is shutting down")),
        connected = connect(shared, user, port, has_arrived) => connected,
    };
    let (Arrival { shed, place: _place }, guest) = match connected {
        Ok(connected) => connected,
        Err(Refusal { words: reason, .. }) => {
            tracing::info!(user, %port, reason, "an SSH tunnel was refused");
            inlet.gone.cancel();
            return reply.reject(ChannelOpenFailure::Other { code: CONNECT_FAILED, reason }).await;
        }
    };
    reply.accept().await;
    let stream = OpenStream::new(&shared.metrics, StreamKind::SshTunnel, shed);
    let rules = Rules { far_break: FarBreak::IsAnError, linger: LINGER };
    // Who has closed the channel may have sent something before; who is gone has not.
    let closed = async {
        inlet.gone.cancelled().await;
        tokio::select! {
            () = inlet.lost.cancelled() => {}
            () = sleep(LINGER) => {}
        }
    };
    let result = tokio::select! {
        result = relay(ChannelSide::new(inlet, output, GuestEnd::IsHalf), b"", guest, rules) => result,
        () = closed => Err(Broken::Near(std::io::ErrorKind::ConnectionAborted.into())),
        () = shared.hang_up.cancelled() => Err(Broken::Far(std::io::Error::other("the server ends"))),
    };
    stream.ended(&result);
    // Clients close what is done in both directions. Of what they close first nothing is kept (`MAX_CLOSED_FIRST`).
    tokio::select! {
        () = inlet.gone.cancelled() => {}
        () = sleep(CLIENT_CLOSES) => {}
        () = shared.hang_up.cancelled() => {}
    }
}

async fn connect(
    shared: &Shared,
    user: &str,
    port: TcpPort,
    has_arrived: &AtomicBool,
) -> Result<(Arrival, shed_backend::GuestStream), Refusal> {
    // The first one of a connection starts the shed, like a session. After that a shed that does not run was stopped,
    // and a page that reconnects every second must not start it again.
    let arrival = if has_arrived.load(Relaxed) {
        find_running(shared, user)?
    } else {
        arrive(shared, user, |_line| std::future::ready(())).await?
    };
    has_arrived.store(true, Relaxed);
    let guest = shared.sheds.dial(&arrival.shed, port).await?;
    Ok((arrival, guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_of_the_guest_itself_are_targets() {
        for host in ["localhost", "LocalHost", "127.0.0.1", "::1"] {
            assert_eq!(target(host, 80).unwrap().get(), 80, "{host}");
        }
        assert_eq!(target("localhost", 65535).unwrap().get(), 65535);
        for (host, port) in [
            ("", 80),
            ("example.com", 80),
            ("127.0.0.2", 80),
            ("10.0.2.2", 80),
            ("0.0.0.0", 80),
            ("localhost.", 80),
            ("localhost\0", 80),
            ("localhost", 0),
            ("localhost", 65536),
            ("localhost", u32::MAX),
        ] {
            let refused = target(host, port).unwrap_err();
            assert_eq!(refused.code(), PROHIBITED);
            assert!(!refused.description().chars().any(char::is_control), "{refused:?}");
        }
    }
}
