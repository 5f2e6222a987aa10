//! Lets the system watch whether the server of a connection is still there, as `tunnels.yaml` says. `carry` calls it for each
//! connection; what the system cannot do is left out, for the connection works without it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use rustix::net::sockopt;
use tokio::net::TcpStream;

#[cfg(target_os = "linux")]
use self::linux::end_unacknowledged;
#[cfg(target_os = "macos")]
use self::macos::end_unacknowledged;
use super::file::KeepAlive;

/// Has a connection end when so many questions, one an interval, were not answered.
pub(super) fn watch(stream: &TcpStream, keep_alive: Option<KeepAlive>) {
    let Some(KeepAlive { interval, count }) = keep_alive else { return };
    let _as_it_is = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, interval))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, interval))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, count));
    end_unacknowledged(stream, interval.saturating_mul(count.saturating_add(1)));
}
