//! A hostile guest sends whatever frame it likes; only its own come out.

use std::{fs::File, io::Write as _, net::Ipv4Addr};

use shed_net::Lease;

use crate::stage::{GATEWAY, PATIENCE, forwarding, host, in_namespace, open_tap, read_frame, sheds};

const BROADCAST: [u8; 6] = [0xff; 6];
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An ARP request (RFC 826) of `sender`, who says to have an address.
fn arp(sender: [u8; 6], address: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 1][..], &sender, &address.octets(), &[0; 6], &target.octets()].concat()
}

/// A UDP datagram over IPv4, without a UDP checksum.
pub(crate) fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16, text: &[u8]) -> Vec<u8> {
    let length = |header: usize| u16::try_from(header + text.len()).unwrap().to_be_bytes();
    let mut packet =
        [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0], &from.octets(), &to.octets()].concat();
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&(!sum).to_be_bytes());
    [&packet[..], &port.to_be_bytes(), &port.to_be_bytes(), &length(8), &[0, 0], text].concat()
}

/// Stands for the number of a frame, in the frame. It is in an IPv4 packet and not behind it, because a host with br_netfilter
/// cuts off what is behind.
const MARK: &[u8; 8] = b"mark....";

/// Sends frames from one TAP, each with its number in the place of [`MARK`], and one more that is all right; returns which of them
/// came out of another until the last one did.
fn sent_through(from: &File, to: &File, frames: &[Vec<u8>], last: &[u8]) -> Vec<usize> {
    let place = |frame: &[u8]| frame.windows(8).position(|part| part.starts_with(b"mark"));
    let mut from = from;
    for (number, frame) in frames.iter().map(Vec::as_slice).chain([last]).enumerate() {
        let mut frame = frame.to_vec();
        match place(&frame) {
            Some(at) => frame[at..at + 8].copy_from_slice(format!("mark{number:04}").as_bytes()),
            None => frame.extend_from_slice(format!("mark{number:04}").as_bytes()),
        }
        from.write_all(&frame).unwrap();
    }
    let mut seen = Vec::new();
    loop {
        let frame = read_frame(to, PATIENCE).expect("the last frame comes through");
        // What the host sends by itself has no mark.
        let Some(at) = place(&frame) else { continue };
        let number = std::str::from_utf8(&frame[at + 4..at + 8]).unwrap().parse().unwrap();
        if number == frames.len() {
            return seen;
        }
        seen.push(number);
    }
}

struct Two {
    hostile: File,
    victim: File,
    own: Lease,
    other: Lease,
}

async fn two(host: &shed_net::Host) -> Two {
    host.ensure_bridge().await.unwrap();
    let mut leases = sheds(host, 2).await.into_iter();
    let (own, other) = (leases.next().unwrap(), leases.next().unwrap());
    let open = |lease: &Lease| open_tap(lease.tap().as_str()).unwrap();
    let two = Two { hostile: open(&own), victim: open(&other), own, other };
    forwarding(&[&two.own, &two.other]);
    two
}

in_namespace! {
    async fn a_guest_cannot_pose_as_another() {
        let host = host();
        let Two { hostile, victim, own, other } = two(&host).await;
        let (mac, address, theirs) = (own.mac().bytes(), own.address(), other.address());
        let text = MARK;
        let good = ethernet(BROADCAST, mac, IPV4, &udp(address, theirs, 9, text));
        let tagged = |tag: u16, inner: &[u8]| [&mac[..0], &BROADCAST, &mac, &tag.to_be_bytes(), &[0, 5], inner].concat();
        let inner = [&IPV4.to_be_bytes()[..], &udp(address, theirs, 9, text)].concat();
        let twice = [&0x8100_u16.to_be_bytes()[..], &[0, 6], &inner].concat();
        let mut wrong_sizes = arp(mac, address, theirs);
        wrong_sizes[4] = 8;
        let mut wrong_kind = arp(mac, address, theirs);
        wrong_kind[1] = 6;
        let frames = [
            ethernet(BROADCAST, other.mac().bytes(), IPV4, &udp(address, theirs, 9, text)),
            ethernet(other.mac().bytes(), mac, IPV4, &udp(theirs, theirs, 9, text)),
            ethernet(BROADCAST, mac, IPV4, &udp(GATEWAY, theirs, 9, text)),
            ethernet(BROADCAST, mac, IPV4, &udp(Ipv4Addr::UNSPECIFIED, theirs, 9, text)),
            ethernet(BROADCAST, mac, IPV4, &udp(Ipv4Addr::new(8, 8, 8, 8), theirs, 9, text)),
            ethernet(BROADCAST, mac, ARP, &arp(mac, GATEWAY, theirs)),
            ethernet(BROADCAST, mac, ARP, &arp(mac, theirs, theirs)),
            ethernet(BROADCAST, mac, ARP, &arp(other.mac().bytes(), address, theirs)),
            ethernet(BROADCAST, mac, ARP, &wrong_sizes),
            ethernet(BROADCAST, mac, ARP, &wrong_kind),
            // IPv6, RARP, an unknown type, and a frame with a length instead of a type (IEEE 802.3).
            ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd, &[0x60, 0, 0, 0, 0, 0, 59, 64]),
            ethernet(BROADCAST, mac, 0x8035, &arp(mac, address, theirs)),
            ethernet(BROADCAST, mac, 0x88b5, text),
            ethernet(BROADCAST, mac, 38, &[0x42; 38]),
            tagged(0x8100, &inner),
            tagged(0x88a8, &inner),
            tagged(0x8100, &twice),
            // A type of IPv4 with something else in it, and too little.
            ethernet(BROADCAST, mac, IPV4, &[0x60; 40]),
            ethernet(BROADCAST, mac, IPV4, &[0x45]),
            ethernet(BROADCAST, mac, ARP, &[0, 1]),
        ];
        assert_eq!(sent_through(&hostile, &victim, &frames, &good), [0_usize; 0]);
        drop((hostile, victim));
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn what_a_guest_may_send_comes_out() {
        let host = host();
        let Two { hostile, victim, own, other } = two(&host).await;
        let (mac, address, theirs) = (own.mac().bytes(), own.address(), other.address());
        let good = ethernet(BROADCAST, mac, IPV4, &udp(address, theirs, 9, MARK));
        let frames = [
            ethernet(BROADCAST, mac, ARP, &arp(mac, address, theirs)),
            // Is this address free? (RFC 5227)
            ethernet(BROADCAST, mac, ARP, &arp(mac, Ipv4Addr::UNSPECIFIED, address)),
            ethernet(other.mac().bytes(), mac, IPV4, &udp(address, theirs, 9, MARK)),
        ];
        assert_eq!(sent_through(&hostile, &victim, &frames, &good), [0, 1, 2]);
        drop((hostile, victim));
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    /// The rules come before the device is up, and are there again after somebody's `nft flush ruleset` and a start.
    async fn a_guest_is_held_to_its_lease_after_the_rules_were_lost() {
        let host = host();
        let Two { hostile, victim, own, other } = two(&host).await;
        let (mac, address) = (own.mac().bytes(), own.address());
        let good = ethernet(BROADCAST, mac, IPV4, &udp(address, other.address(), 9, MARK));
        let forged = ethernet(BROADCAST, mac, ARP, &arp(mac, GATEWAY, other.address()));
        crate::stage::sh("nft flush ruleset");
        assert_eq!(sent_through(&hostile, &victim, std::slice::from_ref(&forged), &good), [0], "without rules it comes out");
        host.ensure_bridge().await.unwrap();
        assert_eq!(sent_through(&hostile, &victim, &[forged], &good), [0_usize; 0]);
        drop((hostile, victim));
        host.remove_all().await.unwrap();
    }
}
