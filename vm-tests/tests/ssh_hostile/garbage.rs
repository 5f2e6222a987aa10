//! Connections that are no SSH, or begin as SSH and go wrong: on plain sockets, before any key is agreed.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use rand::{Rng, RngExt};

/// How long the server may take to be done with a connection that has said all it will, on a slow host.
const DONE: Duration = Duration::from_secs(120);

/// Connections on their way at once.
const THREADS: usize = 32;

const VERSION: &[u8] = b"SSH-2.0-hostile\r\n";

/// A packet (RFC 4253 section 6) whose announced length and padding need not be true.
fn packet(length: u32, padding: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = VERSION.to_vec();
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(padding);
    bytes.extend_from_slice(payload);
    bytes
}

/// A key exchange's first message (RFC 4253 section 7.1) with these lists of algorithms.
fn kexinit(kex: &str, key: &str, cipher: &str) -> Vec<u8> {
    let mut payload = vec![20];
    payload.extend_from_slice(&[7; 16]);
    for list in [kex, key, cipher, cipher, "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""] {
        payload.extend_from_slice(&u32::try_from(list.len()).expect("it is short").to_be_bytes());
        payload.extend_from_slice(list.as_bytes());
    }
    payload.extend_from_slice(&[0; 5]);
    let padding = 8 + (8 - (payload.len() + 5) % 8) % 8;
    payload.extend(vec![0; padding]);
    let length = u32::try_from(payload.len() + 1).expect("it is short");
    packet(length, u8::try_from(padding).expect("it is short"), &payload)
}

/// Says something wrong, a different thing for each number.
fn wrong(number: usize) -> Vec<u8> {
    let mut rng = rand::rng();
    let mut random = vec![0; rng.random_range(1..4000)];
    rng.fill_bytes(&mut random);
    match number % 16 {
        0 => Vec::new(),
        1 => random,
        2 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        3 => b"SSH-1.5-old\r\n".to_vec(),
        4 => [b"SSH-2.0-".as_slice(), &vec![b'x'; 70_000]].concat(),
        5 => b"a line before\r\n".repeat(5000),
        6 => [VERSION, random.as_slice()].concat(),
        7 => packet(u32::MAX, 4, &random),
        8 => packet(0, 0, &[]),
        9 => packet(12, 255, &[0; 11]),
        10 => packet(40_000, 4, &vec![0; 40_000]),
        11 => packet(300_000, 4, &vec![20; 300_000]),
        12 => kexinit("nothing-known", "ssh-ed25519", "aes256-ctr"),
        13 => kexinit("", "", ""),
        // Half of the message, then the end.
        14 => kexinit("curve25519-sha256", "ssh-ed25519", "aes256-gcm@openssh.com")[..60].to_vec(),
        // An exchange that begins right, and goes on with noise.
        _ => {
            let mut bytes = kexinit("curve25519-sha256", "ssh-ed25519", "aes256-gcm@openssh.com");
            bytes.extend(random);
            bytes
        }
    }
}

/// Says it, ends its side, and reads until the server has ended the connection.
fn one(port: u16, number: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DONE))?;
    stream.set_write_timeout(Some(DONE))?;
    // The server may have heard enough and closed before it has all.
    let _cut_off = stream.write_all(&wrong(number));
    let _closed = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut said) {
        Ok(length) if length < 1 << 20 => Ok(()),
        Ok(length) => Err(io::Error::other(format!("the server says {length} bytes and more"))),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Makes `count` such connections, a bounded number at a time, and waits until the server is done with each.
#[track_caller]
pub(crate) fn connections(port: u16, count: usize) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    one(port, number).unwrap_or_else(|error| {
                        panic!("connection {number} (kind {}) was not ended: {error}", number % 16)
                    });
                }
            });
        }
    });
}

/// Opens a connection that never gets further than some point of the handshake.
#[track_caller]
pub(crate) fn half_open(port: u16, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server takes connections");
    let exchange = kexinit("curve25519-sha256", "ssh-ed25519", "aes256-gcm@openssh.com");
    let said: &[u8] = match number % 4 {
        0 => b"",
        1 => VERSION,
        2 => &exchange[..VERSION.len() + 30],
        _ => &exchange,
    };
    // A server that has had enough of these may have closed already.
    let _cut_off = stream.write_all(said);
    stream
}

/// Whether the server has ended a connection.
pub(crate) fn is_over(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
