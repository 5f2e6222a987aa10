//! Linux: the kernel names the socket at the other end of a connection, /proc who has it open.
//!
//! It is asked for every connection, so it must cost little: one question to the kernel for the socket, then a look at the
//! descriptors of the machines, of which each has some dozens.

use std::{io, mem::MaybeUninit, net::SocketAddr};

use rustix::fs::{Dir, Mode, OFlags, readlinkat_raw};

use super::{Origin, diag, table};

/// Returns who made the connection from `peer` to `local`, given the VMM processes that run.
pub(crate) async fn origin(peer: SocketAddr, local: SocketAddr, machines: &[u32]) -> Origin {
    // A socket that listens on `::` shows an IPv4 peer as ::ffff:a.b.c.d.
    let same_host = peer.ip().to_canonical().is_loopback() || peer.ip() == local.ip();
    if !same_host || machines.is_empty() {
        return Origin::Client;
    }
    match socket_inode(peer, local) {
        Ok(Some(inode)) => {
            let mut is_a_machines = false;
            for &pid in machines {
                is_a_machines |= holds_socket(pid, inode);
                if is_a_machines {
                    break;
                }
                // Many machines are no reason for other connections to wait.
                tokio::task::yield_now().await;
            }
            Origin::of(is_a_machines)
        }
        // A socket that is closed already has no owner that could be asked about. Its request would get no reply
        // anyway, and one from a guest must not be acted on.
        Ok(None) => Origin::Guest,
        Err(error) => {
            tracing::warn!(%error, "the kernel does not tell about TCP sockets; a guest's requests are not told from others");
            Origin::Client
        }
    }
}

/// Finds the socket at the other end of a connection.
fn socket_inode(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u64>> {
    // A kernel without the question says the same as one without the socket. Our own end is there for certain.
    match diag::socket_inode(peer, local) {
        Ok(Some(inode)) => Ok(Some(inode)),
        Ok(None) if matches!(diag::socket_inode(local, peer), Ok(Some(_))) => Ok(None),
        Ok(None) | Err(_) => table::socket_inode(peer, local),
    }
}

/// Returns whether a process has this socket open. One that is gone has nothing open.
fn holds_socket(pid: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()) else {
        return false;
    };
    let Ok(entries) = Dir::read_from(&directory) else { return false };
    // A name that is longer than the buffer is cut off, and is no socket's.
    let mut target = [MaybeUninit::uninit(); 64];
    entries.filter_map(Result::ok).any(|entry| {
        readlinkat_raw(&directory, entry.file_name(), &mut target)
            .is_ok_and(|(target, _)| &*target == wanted.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A process of nobody's.
    const OTHER: u32 = 1;

    fn connect(host: &str) -> (TcpStream, SocketAddr, SocketAddr) {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, peer) = listener.accept().unwrap();
        (client, peer, listener.local_addr().unwrap())
    }

    #[tokio::test]
    async fn a_connection_is_traced_to_the_process_that_made_it() {
        for host in ["127.0.0.1", "::1"] {
            let (client, peer, local) = connect(host);
            assert_eq!(origin(peer, local, &[OTHER, std::process::id()]).await, Origin::Guest, "{host}");
            assert_eq!(origin(peer, local, &[OTHER]).await, Origin::Client, "{host}");
            assert_eq!(origin(peer, local, &[]).await, Origin::Client, "{host}");
            drop(client);
        }
    }

    #[tokio::test]
    async fn an_ipv4_connection_to_a_socket_for_both_versions_is_traced_too() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        let Ok(_client) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let (server, peer) = listener.accept().unwrap();
        let local = server.local_addr().unwrap();
        assert!(peer.is_ipv6(), "{peer}");
        assert_eq!(origin(peer, local, &[std::process::id()]).await, Origin::Guest);
        assert_eq!(origin(peer, local, &[OTHER]).await, Origin::Client);
    }

    #[tokio::test]
    async fn one_that_was_closed_at_once_is_not_taken_for_a_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).unwrap();
        let peer = client.local_addr().unwrap();
        drop(client);
        assert_eq!(origin(peer, local, &[OTHER]).await, Origin::Guest);
    }

    #[tokio::test]
    async fn another_hosts_connection_is_not_looked_up() {
        let peer = "192.0.2.1:5000".parse().unwrap();
        assert_eq!(origin(peer, "127.0.0.1:8080".parse().unwrap(), &[OTHER]).await, Origin::Client);
    }

    #[test]
    fn the_kernel_and_its_table_agree() {
        for host in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((host, 0)).unwrap();
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            let _server = listener.accept().unwrap();
            let peer = client.local_addr().unwrap();
            let asked = diag::socket_inode(peer, local).unwrap();
            assert_eq!(asked, table::socket_inode(peer, local).unwrap());
            assert!(asked.is_some_and(|inode| holds_socket(std::process::id(), inode)));
            // Without a connection the kernel answers with the socket that listens, which is not asked for.
            let nobody = SocketAddr::new(peer.ip(), 1);
            assert_eq!(diag::socket_inode(local, nobody).unwrap(), None);
        }
    }
}
