//! Asks the kernel for one TCP socket by its two ends, over netlink (sock_diag(7)): as fast with ten thousand sockets on
//! the host as with ten.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
    recv, sendto, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` (linux/netlink.h).
const ERROR: u16 = 2;
/// `NLM_F_REQUEST` (linux/netlink.h).
const REQUEST: u16 = 1;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_req_v2` (linux/inet_diag.h): eight bytes and an `inet_diag_sockid`.
const QUESTION: usize = 8 + 48;
/// Where `idiag_inode` is in `struct inet_diag_msg`: four bytes, the sockid, four other numbers.
const INODE: usize = 4 + 48 + 16;
/// `ENOENT`, negative as the kernel sends it.
const NOT_FOUND: i32 = -2;

/// Looks the socket up whose own address is `own` and whose other end is `other`. Nothing when there is none, or
/// nobody has it open any more.
///
/// # Errors
/// When the kernel cannot be asked (it has no inet_diag, or a filter forbids it).
pub(super) fn socket_inode(own: SocketAddr, other: SocketAddr) -> io::Result<Option<u64>> {
    // IPv4 as such, whatever kind of socket it was accepted on; the kernel finds IPv6 sockets with such ends by it.
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (own, other) = (plain(own), plain(other));
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let _sent = sendto(&netlink, &question(own, other), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    // The answer is there when the question has been taken: the kernel makes it in the same call.
    let mut answer = [0; 512];
    let (length, _) = recv(&netlink, &mut answer[..], RecvFlags::DONTWAIT)?;
    read_answer(&answer[..length], own, other)
}

fn question(own: SocketAddr, other: SocketAddr) -> Vec<u8> {
    let family = if own.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut bytes = Vec::with_capacity(HEADER + QUESTION);
    bytes.extend(u32::try_from(HEADER + QUESTION).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Sequence number and port id: one question, one answer.
    bytes.extend([0; 8]);
    let tcp = 6;
    bytes.extend([u8::try_from(family.as_raw()).unwrap_or(0), tcp, 0, 0]);
    // Any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(own.port().to_be_bytes());
    bytes.extend(other.port().to_be_bytes());
    for end in [own, other] {
        bytes.extend(words(end.ip()));
    }
    // Any interface, and no cookie.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

/// An address in the four words that every address has there.
fn words(ip: IpAddr) -> [u8; 16] {
    let mut words = [0; 16];
    match ip {
        IpAddr::V4(v4) => words[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => words = v6.octets(),
    }
    words
}

fn read_answer(bytes: &[u8], own: SocketAddr, other: SocketAddr) -> io::Result<Option<u64>> {
    let short =
        || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer about a socket is too short");
    let kind =
        bytes.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(short)?;
    let body = bytes.get(HEADER..).ok_or_else(short)?;
    let word = |at: usize| body.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok());
    match kind {
        ERROR => match i32::from_ne_bytes(word(0).ok_or_else(short)?) {
            NOT_FOUND => Ok(None),
            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        },
        BY_FAMILY => {
            let inode = u32::from_ne_bytes(word(INODE).ok_or_else(short)?);
            // The kernel falls back to a socket that listens on the address; that one has no other end.
            let is_it = [(4, 8, own), (6, 24, other)]
                .into_iter()
                .all(|(port, address, end)| end_is(body, port, address, end));
            Ok((is_it && inode != 0).then_some(inode.into()))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel answered something else about a socket",
        )),
    }
}

/// Whether the port and the address at these places are those of `end`. An IPv6 socket shows an IPv4 end mapped.
fn end_is(body: &[u8], port: usize, address: usize, end: SocketAddr) -> bool {
    let Some(port) = body.get(port..port + 2) else { return false };
    let Some(address) = body.get(address..address + 16).and_then(|a| <[u8; 16]>::try_from(a).ok()) else {
        return false;
    };
    port == end.port().to_be_bytes()
        && (address == words(end.ip()) || Ipv6Addr::from(address).to_canonical() == end.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "127.0.0.1:1000";
    const OTHER: &str = "127.0.0.1:2000";

    fn ends() -> (SocketAddr, SocketAddr) {
        (OWN.parse().unwrap(), OTHER.parse().unwrap())
    }

    /// An answer about a socket with these ends.
    fn answer(own: SocketAddr, other: SocketAddr, inode: u32) -> Vec<u8> {
        let mut bytes = question(own, other);
        // The sockid stands four bytes earlier in an answer.
        bytes.drain(HEADER..HEADER + 4);
        bytes.extend([0; 16]);
        bytes.extend(inode.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_very_socket_counts() {
        let (own, other) = ends();
        assert_eq!(read_answer(&answer(own, other, 77), own, other).unwrap(), Some(77));
        assert_eq!(read_answer(&answer(own, other, 0), own, other).unwrap(), None, "nobody has it open");
        let listening = answer(own, "0.0.0.0:0".parse().unwrap(), 77);
        assert_eq!(read_answer(&listening, own, other).unwrap(), None);
    }

    #[test]
    fn an_answer_of_any_shape_is_read_without_panic() {
        let (own, other) = ends();
        let whole = answer(own, other, 77);
        for length in 0..whole.len() {
            assert!(!matches!(read_answer(&whole[..length], own, other), Ok(Some(_))), "{length}");
        }
        let mut error = [0; 36];
        error[4] = 2;
        for (code, is_error) in [(NOT_FOUND, false), (-1, true), (i32::MIN, true), (5, true)] {
            error[HEADER..HEADER + 4].copy_from_slice(&code.to_ne_bytes());
            assert_eq!(read_answer(&error, own, other).is_err(), is_error, "{code}");
        }
    }
}
