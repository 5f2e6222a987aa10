//! What a guest reaches, and what reaches it: with real sockets in namespaces that are wired to the TAPs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread::JoinHandle,
};

use shed_net::{Host, Lease};

use crate::{
    spoofing::udp,
    stage::{
        Elsewhere, GATEWAY, Guest, PATIENCE, SILENCE, forwarding, host, in_namespace, link, open_tap,
        settings_of, sh, sheds,
    },
};

/// Takes one connection, says who it is from, and ends.
fn serve(listener: TcpListener) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
    })
}

fn listen(address: Ipv4Addr) -> (TcpListener, u16) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Returns who the other end says we are; nothing when there is no connection within the time.
fn ask(from: &Elsewhere, address: Ipv4Addr, port: u16, within: std::time::Duration) -> Option<String> {
    from.run(move || {
        let to = SocketAddr::from((address, port));
        let mut stream = TcpStream::connect_timeout(&to, within).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Some(text)
    })
}

async fn guests(host: &Host, count: u16) -> Vec<(Lease, Guest)> {
    host.ensure_bridge().await.unwrap();
    let leases = sheds(host, count).await;
    leases.into_iter().map(|lease| (lease.clone(), Guest::boot(&lease))).collect()
}

in_namespace! {
    async fn guests_reach_each_other_and_their_host() {
        let host = host();
        let guests = guests(&host, 2).await;
        let [(a, guest_a), (b, guest_b)] = &guests[..] else { panic!("two") };
        let listening = a.address();
        let (service, port) = guest_a.place.run(move || {
            let (listener, port) = listen(listening);
            (serve(listener), port)
        });
        let seen = ask(&guest_b.place, a.address(), port, PATIENCE);
        assert_eq!(seen, Some(b.address().to_string()), "no address is translated between guests");
        service.join().unwrap();

        for address in [GATEWAY, Ipv4Addr::UNSPECIFIED] {
            let (listener, port) = listen(address);
            let service = serve(listener);
            assert_eq!(ask(&guest_b.place, GATEWAY, port, PATIENCE), Some(b.address().to_string()));
            service.join().unwrap();
        }
        // The host reaches its guests, too.
        let listening = b.address();
        let (service, port) = guest_b.place.run(move || {
            let (listener, port) = listen(listening);
            (serve(listener), port)
        });
        let mut stream = TcpStream::connect((b.address(), port)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, GATEWAY.to_string());
        service.join().unwrap();
        drop(guests);
        host.remove_all().await.unwrap();
    }
}

in_namespace! {
    async fn the_servers_own_ports_are_out_of_reach_on_every_address() {
        let uplink = Elsewhere::new();
        uplink.cable("uplink", "203.0.113.2/24");
        sh("ip addr add 203.0.113.1/24 dev uplink");
        let own = Ipv4Addr::new(203, 0, 113, 1);
        let (protected, port) = listen(Ipv4Addr::UNSPECIFIED);
        let (open, open_port) = listen(Ipv4Addr::UNSPECIFIED);
        let host = Host::new(settings_of("test", &[port, 1]));
        let guests = guests(&host, 1).await;
        let (_lease, guest) = &guests[0];
        for address in [GATEWAY, own] {
            let service = serve(open.try_clone().unwrap());
            assert!(ask(&guest.place, address, open_port, PATIENCE).is_some());
            service.join().unwrap();
            assert_eq!(ask(&guest.place, address, port, SILENCE), None);
        }
        // Others reach it as before.
        let service = serve(protected);
        assert!(ask(&uplink, own, port, PATIENCE).is_some());
        service.join().unwrap();
        drop(guests);
        host.remove_all().await.unwrap();
        sh("ip link del uplink");
    }
}

in_namespace! {
    async fn a_guest_reaches_the_world_as_its_host_and_the_world_does_not_reach_it() {
        let world = Elsewhere::new();
        world.cable("uplink", "203.0.113.2/24");
        sh("ip addr add 203.0.113.1/24 dev uplink");
        let host = host();
        let guests = guests(&host, 1).await;
        let (lease, guest) = &guests[0];
        let there = Ipv4Addr::new(203, 0, 113, 2);
        let (service, port) = world.run(move || {
            let (listener, port) = listen(there);
            (serve(listener), port)
        });
        assert_eq!(ask(&guest.place, there, port, PATIENCE), Some("203.0.113.1".to_owned()));
        service.join().unwrap();

        world.sh("ip route add 172.30.0.0/24 via 203.0.113.1");
        let listening = lease.address();
        let (listener, port) = guest.place.run(move || listen(listening));
        assert_eq!(ask(&world, lease.address(), port, SILENCE), None);
        // It was not for want of a way: with the rules gone it gets through.
        sh("nft delete table ip shed-net-shed-br0");
        let service = guest.place.run(move || serve(listener));
        assert!(ask(&world, lease.address(), port, PATIENCE).is_some());
        service.join().unwrap();
        drop(guests);
        host.remove_all().await.unwrap();
        sh("ip link del uplink");
    }
}

in_namespace! {
    /// A host that routes 127.0.0.0/8 (as some container engines make it) still keeps its loopback services to itself.
    async fn loopback_services_are_out_of_reach_even_with_route_localnet() {
        let host = host();
        host.ensure_bridge().await.unwrap();
        let lease = sheds(&host, 1).await.remove(0);
        fs::write("/proc/sys/net/ipv4/conf/shed-br0/route_localnet", "1").unwrap();
        fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
        let service = UdpSocket::bind("0.0.0.0:0").unwrap();
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = service.local_addr().unwrap().port();
        let mut tap = open_tap(lease.tap().as_str()).unwrap();
        forwarding(&[&lease]);
        let seen = link("shed-br0");
        let digits = seen.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
        let bridge: Vec<u8> = digits.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let mut send = |to: Ipv4Addr, text: &[u8]| {
            let packet = udp(lease.address(), to, port, text);
            tap.write_all(&[&bridge[..], &lease.mac().bytes(), &[8, 0], &packet].concat()).unwrap();
        };
        send(Ipv4Addr::LOCALHOST, b"loopback");
        send(GATEWAY, b"gateway");
        let mut text = [0; 16];
        let length = service.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"gateway");
        // The control: without the rule it would have come.
        sh("nft delete table ip shed-net-shed-br0");
        send(Ipv4Addr::LOCALHOST, b"loopback");
        let length = service.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"loopback");
        drop(tap);
        host.remove_all().await.unwrap();
    }
}
