//! Tells whether a connection to the API was made by a guest.
//!
//! With user-mode networking a guest's connections are made by its VMM, on this host: they reach services on the
//! loopback address, and the API, which takes whoever reaches it for the owner, is one of them. The server's accept
//! loop asks here, and refuses what a guest sends. On systems without /proc nothing can be told, and nothing is refused.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
};

/// Who made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody who may use the API.
    Client,
    /// One of the machines, or a process on this host that cannot be told from one any more.
    Guest,
}

/// Returns who made the connection from `peer` to `local`, given the VMM processes that run.
pub(crate) fn origin(peer: SocketAddr, local: SocketAddr, machines: &[u32]) -> Origin {
    // A socket that listens on `::` shows an IPv4 peer as ::ffff:a.b.c.d.
    let same_host = peer.ip().to_canonical().is_loopback() || peer.ip() == local.ip();
    if !same_host || machines.is_empty() || cfg!(not(target_os = "linux")) {
        return Origin::Client;
    }
    match socket_inode(peer, local) {
        Ok(Some(inode)) if !machines.iter().any(|pid| holds_socket(*pid, inode)) => Origin::Client,
        // A socket that is closed already has no owner that could be asked about. Its request would get no reply
        // anyway, and one from a guest must not be acted on.
        Ok(Some(_) | None) => Origin::Guest,
        Err(error) => {
            tracing::warn!(%error, "the table of TCP sockets cannot be read; a guest's requests are not told from others");
            Origin::Client
        }
    }
}

/// Looks the other end of a connection up in the kernel's table (proc_net_tcp in the kernel's documentation).
fn socket_inode(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u64>> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    if let (IpAddr::V4(_), IpAddr::V4(_)) = (plain(peer).ip(), plain(local).ip()) {
        let table = fs::read_to_string("/proc/net/tcp")?;
        let found = find_inode(&table, &table_form(plain(peer)), &table_form(plain(local)));
        if found.is_some() || peer.is_ipv4() {
            return Ok(found);
        }
    }
    // Also one with an IPv4 address, if its owner made it for IPv6.
    Ok(find_inode(&fs::read_to_string("/proc/net/tcp6")?, &table_form(peer), &table_form(local)))
}

fn find_inode(table: &str, peer: &str, local: &str) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let ends = (columns.nth(1)?, columns.next()?);
        // After the two ends: state, queues, timer, retransmits, user, timeout, and then the inode.
        let inode = columns.nth(6)?.parse().ok()?;
        (ends == (peer, local) && inode != 0).then_some(inode)
    })
}

/// Writes an address as the table does: the bytes of each 32-bit word in the processor's order, then the port.
fn table_form(address: SocketAddr) -> String {
    let words: Vec<u8> = match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let hex: String = words
        .chunks_exact(4)
        .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .collect();
    format!("{hex}:{:04X}", address.port())
}

/// Returns whether a process has this socket open. One that is gone has nothing open.
fn holds_socket(pid: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .filter_map(Result::ok)
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
}

#[cfg(all(test, target_os = "linux"))]
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

    #[test]
    fn a_connection_is_traced_to_the_process_that_made_it() {
        for host in ["127.0.0.1", "::1"] {
            let (client, peer, local) = connect(host);
            assert_eq!(origin(peer, local, &[OTHER, std::process::id()]), Origin::Guest, "{host}");
            assert_eq!(origin(peer, local, &[OTHER]), Origin::Client, "{host}");
            assert_eq!(origin(peer, local, &[]), Origin::Client, "{host}");
            drop(client);
        }
    }

    #[test]
    fn an_ipv4_connection_to_a_socket_for_both_versions_is_traced_too() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        let Ok(_client) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let (server, peer) = listener.accept().unwrap();
        let local = server.local_addr().unwrap();
        assert!(peer.is_ipv6(), "{peer}");
        assert_eq!(origin(peer, local, &[std::process::id()]), Origin::Guest);
        assert_eq!(origin(peer, local, &[OTHER]), Origin::Client);
    }

    #[test]
    fn one_that_was_closed_at_once_is_not_taken_for_a_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).unwrap();
        let peer = client.local_addr().unwrap();
        drop(client);
        assert_eq!(origin(peer, local, &[OTHER]), Origin::Guest);
    }

    #[test]
    fn another_hosts_connection_is_not_looked_up() {
        let peer = "192.0.2.1:5000".parse().unwrap();
        assert_eq!(origin(peer, "127.0.0.1:8080".parse().unwrap(), &[OTHER]), Origin::Client);
    }

    #[test]
    fn a_table_in_any_shape_is_read_without_panic() {
        for table in [
            "",
            "\n",
            "head\nshort line",
            "head\n 0: a b c d e f g notanumber",
            "head\n 0: A B 01 2 3 4 5 6 77",
        ] {
            let _any = find_inode(table, "A", "B");
        }
    }
}
