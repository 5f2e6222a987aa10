//! The kernel's tables of TCP sockets as text (proc_net_tcp in the kernel's documentation): there on every Linux, but
//! it takes as long as there are sockets on the host. Used where [`diag`](super::diag) cannot be.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
};

/// Looks the socket up whose own address is `peer` and whose other end is `local`.
pub(super) fn socket_inode(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u64>> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
