//! Linux asks no questions while data is on its way unacknowledged, and sends the data again for a quarter of an hour (tcp(7),
//! `tcp_retries2`).

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Ends a connection whose data is not acknowledged for this long: at the time at which the last question would have gone
/// unanswered.
pub(super) fn end_unacknowledged(stream: &TcpStream, patience: Duration) {
    let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let _as_it_is = sockopt::set_tcp_user_timeout(stream, milliseconds);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnels::{file::KeepAlive, keep_alive::watch};

    #[tokio::test]
    async fn a_server_that_is_gone_is_noticed_with_data_on_its_way_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        watch(&stream, None);
        assert!(!sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 0);
        watch(&stream, Some(KeepAlive { interval: Duration::from_secs(15), count: 3 }));
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), Duration::from_secs(15));
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 60_000, "milliseconds");
    }
}
