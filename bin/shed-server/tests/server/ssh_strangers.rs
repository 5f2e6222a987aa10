//! Connections to the SSH port that are no SSH, or go no further than a handshake: dropped, while others log in.

use std::time::Duration;

use russh::client;
use shed_testkit::wait_for;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    api::Api,
    common::{PATIENCE, connect, resident_kib},
    ssh_client::{answer, connect_with, exec, login, login_with, session},
};

/// Sends bytes and returns what came back until the server closed.
async fn said_to(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port).await;
    // The server may have had enough half-way.
    let _refused = stream.write_all(bytes).await;
    let mut back = Vec::new();
    let _reset = timeout(PATIENCE, stream.read_to_end(&mut back)).await.expect("the server closes");
    back
}

/// The value of a sample of the metrics.
async fn metric(api: &Api, sample: &str) -> u64 {
    let text = api.send("GET", "/metrics", "").await.body;
    let line = text.lines().find_map(|line| line.strip_prefix(sample)).unwrap_or_else(|| panic!("{text}"));
    line.trim().parse().unwrap()
}

async fn wait_until_alone(api: &Api) {
    wait_for("the strangers to be gone", PATIENCE, || async {
        metric(api, r#"shed_ssh_connections{stage="login"}"#).await == 0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_no_ssh_is_closed() {
    let api = Api::new().await;
    api.create("api").await;
    let version = |bytes: &[u8]| bytes.starts_with(b"SSH-2.0-Shed_");
    assert!(version(&said_to(api.ssh_port, b"GET / HTTP/1.1\r\n\r\n").await));
    assert!(version(&said_to(api.ssh_port, &[0xff; 70_000]).await));
    assert!(version(&said_to(api.ssh_port, b"SSH-1.5-ancient\r\n").await));
    // A packet of 4 GB, one that is shorter than its padding, one of nothing.
    for packet in [[0xff; 12], [0, 0, 0, 1, 255, 20, 0, 0, 0, 0, 0, 0], [0; 12]] {
        let bytes = [b"SSH-2.0-x\r\n".as_slice(), &packet, &[0; 70_000]].concat();
        assert!(version(&said_to(api.ssh_port, &bytes).await));
    }
    wait_until_alone(&api).await;
    assert_eq!(exec(&login(&api, "api").await, "echo in").await.stdout, b"in\n");
}

/// A packet without encryption, as the key exchange begins with (RFC 4253 6).
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (payload.len() + 5) % 8 + 8;
    let length = u32::try_from(payload.len() + padding + 1).unwrap();
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.push(u8::try_from(padding).unwrap());
    bytes.extend(payload);
    bytes.extend(vec![0; padding]);
    bytes
}

#[tokio::test]
async fn messages_before_the_keys_are_exchanged_are_the_end() {
    let api = Api::new().await;
    api.create("api").await;
    // A login, a channel, data, a request, nonsense: nothing of it is acted on, and nothing panics.
    for message in [5u8, 50, 80, 90, 94, 98, 21, 30, 31, 255] {
        for length in [0, 1, 16, 1000] {
            let payload = [&[message][..], &vec![0xff; length]].concat();
            let bytes = [b"SSH-2.0-x\r\n".as_slice(), &packet(&payload), &packet(&[20; 200])].concat();
            let mut stream = connect(api.ssh_port).await;
            let _refused = stream.write_all(&bytes).await;
            let _refused = stream.shutdown().await;
            let mut back = Vec::new();
            let _reset = timeout(PATIENCE, stream.read_to_end(&mut back)).await.expect("the server closes");
        }
    }
    wait_until_alone(&api).await;
    assert_eq!(exec(&login(&api, "api").await, "echo in").await.stdout, b"in\n");
}

/// Opens connections that stop at different places of a handshake.
async fn half_open(port: u16, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for number in 0..count {
        let mut stream = connect(port).await;
        let begun: &[u8] = match number % 3 {
            0 => b"",
            1 => b"SSH-2.0-",
            _ => b"SSH-2.0-slow\r\n",
        };
        let _refused = stream.write_all(begun).await;
        all.push(stream);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_keep_nobody_out() {
    let api = Api::new().await;
    api.create("api").await;
    let strangers = half_open(api.ssh_port, 600).await;
    assert_eq!(exec(&login(&api, "api").await, "echo in").await.stdout, b"in\n");
    wait_for("all but the last to be dropped", PATIENCE, || async {
        metric(&api, r#"shed_ssh_connections{stage="login"}"#).await <= 256
    })
    .await
    .unwrap();
    // They keep coming while somebody logs in.
    let port = api.ssh_port;
    let flood = tokio::spawn(async move {
        loop {
            drop(half_open(port, 300).await);
        }
    });
    for _ in 0..50 {
        assert_eq!(exec(&login(&api, "api").await, "echo in").await.stdout, b"in\n");
    }
    flood.abort();
    drop(strangers);
    wait_until_alone(&api).await;
}

/// Takes the half minute that a client has to log in.
#[tokio::test]
async fn who_does_not_log_in_in_time_is_dropped() {
    let api = Api::new().await;
    let idle = connect_with(&api, client::Config::default()).await;
    let mut silent = connect(api.ssh_port).await;
    let mut back = Vec::new();
    let _reset = timeout(PATIENCE * 4, silent.read_to_end(&mut back)).await.expect("it is dropped");
    wait_for("the other to be dropped", PATIENCE * 4, || std::future::ready(idle.is_closed())).await.unwrap();
    wait_until_alone(&api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_that_send_garbage_leave_nothing() {
    let api = Api::new().await;
    api.create("api").await;
    let garbage = |number: usize| -> Vec<u8> {
        let noise = (0..2000).map(move |index| u8::try_from((number * 31 + index * 7) % 251).unwrap());
        let greeting: &[u8] = if number.is_multiple_of(2) { b"SSH-2.0-noise\r\n" } else { b"" };
        greeting.iter().copied().chain(noise).collect()
    };
    let round = async |count: usize| {
        for start in (0..count).step_by(50) {
            let all = (start..start + 50).map(|number| {
                let bytes = garbage(number);
                async move {
                    let mut stream = connect(api.ssh_port).await;
                    let _refused = stream.write_all(&bytes).await;
                    let _refused = stream.shutdown().await;
                    let mut back = Vec::new();
                    let _reset =
                        timeout(PATIENCE, stream.read_to_end(&mut back)).await.expect("the server closes");
                }
            });
            let _done = futures::future::join_all(all).await;
        }
    };
    round(1000).await;
    wait_until_alone(&api).await;
    let before = resident_kib();
    round(10_000).await;
    wait_until_alone(&api).await;
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 20_000, "{grown} KiB more");
    assert_eq!(exec(&login(&api, "api").await, "echo in").await.stdout, b"in\n");
}

/// Takes the five seconds that streams have when the server ends, and some for clients that read nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_keeps_the_server_from_ending() {
    let mut api = Api::new().await;
    api.create("api").await;
    let stranger = connect(api.ssh_port).await;
    let idle = login(&api, "api").await;
    let config = client::Config { window_size: 1, ..client::Config::default() };
    let deaf = login_with(&api, "api", config).await;
    let mut channel = session(&deaf).await;
    channel.exec(true, "yes 100000000").await.unwrap();
    assert!(answer(&mut channel).await);
    api.end().await;
    wait_for("the clients to be told", PATIENCE, || std::future::ready(idle.is_closed() && deaf.is_closed()))
        .await
        .unwrap();
    drop(stranger);
}

#[tokio::test]
async fn connections_are_counted_by_how_far_they_have_come() {
    let api = Api::new().await;
    api.create("api").await;
    let mut client = connect_with(&api, client::Config::default()).await;
    let (login_, open) = (r#"shed_ssh_connections{stage="login"}"#, r#"shed_ssh_connections{stage="open"}"#);
    assert_eq!((metric(&api, login_).await, metric(&api, open).await), (1, 0));
    assert!(client.authenticate_none("api").await.unwrap().success());
    assert_eq!((metric(&api, login_).await, metric(&api, open).await), (0, 1));
    let mut channel = session(&client).await;
    channel.request_shell(true).await.unwrap();
    assert!(answer(&mut channel).await);
    wait_for("the shell to be counted", Duration::from_secs(60), || async {
        metric(&api, r#"shed_streams_open{kind="ssh-shell"}"#).await == 1
    })
    .await
    .unwrap();
    drop((channel, client));
    wait_for("nothing to be left", Duration::from_secs(60), || async {
        metric(&api, r#"shed_streams_open{kind="ssh-shell"}"#).await == 0 && metric(&api, open).await == 0
    })
    .await
    .unwrap();
}
