//! systemd, which is told by a message on a socket (sd_notify(3)), so that `systemctl start` returns then, and units that come
//! after this one find it ready.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Names the socket that the manager listens on (sd_notify(3)).
const SOCKET: &str = "NOTIFY_SOCKET";

/// Tells it. One that does not listen is no reason to stop.
pub(crate) fn ready() {
    let Some(socket) = env::var_os(SOCKET) else { return };
    if let Err(error) = send(socket.as_encoded_bytes()) {
        tracing::warn!(%error, "the service manager could not be told that requests are answered");
    }
}

fn send(socket: &[u8]) -> io::Result<()> {
    let address = address(socket)?;
    let _sent = UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

fn address(socket: &[u8]) -> io::Result<SocketAddr> {
    match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(OsStr::from_bytes(socket)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_on_the_socket_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_encoded_bytes()).unwrap();
        let mut told = [0; 32];
        let length = manager.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"READY=1");
        send(b"/nowhere/at/all").unwrap_err();
    }

    #[test]
    fn a_socket_may_be_abstract() {
        let name = format!("shed-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(format!("@{name}").as_bytes()).unwrap();
        let mut told = [0; 32];
        assert_eq!(manager.recv(&mut told).unwrap(), 7);
    }
}
