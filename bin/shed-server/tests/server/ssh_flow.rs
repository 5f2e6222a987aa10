//! Channels that are slow, beside others that are not: no channel stops another, and nothing piles up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use russh::{Channel, ChannelMsg, client};
use shed_backend::fake::FakeService;
use shed_types::TcpPort;
use tokio::{io::AsyncReadExt, time::sleep};

use crate::{
    api::Api,
    common::resident_kib,
    ssh_client::{Client, answer, exec, login, login_with, next, session, to_the_end},
};

/// Begins a command.
async fn begin(client: &Client, command: &str) -> Channel<client::Msg> {
    let mut channel = session(client).await;
    channel.exec(true, command).await.unwrap();
    assert!(answer(&mut channel).await);
    channel
}

/// Types into a shell and waits for the echo, several times; returns the longest wait.
async fn typing(client: &Client) -> Duration {
    let mut shell = begin(client, "cat").await;
    let mut longest = Duration::ZERO;
    for round in 0..50u8 {
        let begun = Instant::now();
        shell.data_bytes(vec![round]).await.unwrap();
        loop {
            match next(&mut shell).await.unwrap() {
                ChannelMsg::Data { data } => {
                    assert_eq!(&data[..], [round]);
                    break;
                }
                ChannelMsg::WindowAdjusted { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        longest = longest.max(begun.elapsed());
    }
    longest
}

/// Sends bytes on a channel. Returns the task that does.
fn flood(channel: Channel<client::Msg>, bytes: &Bytes) -> tokio::task::JoinHandle<()> {
    let (mut reader, writer) = channel.split();
    drop(tokio::spawn(async move { while reader.wait().await.is_some() {} }));
    let bytes = bytes.clone();
    tokio::spawn(async move {
        // It waits for the window, in the end for ever.
        let _gone = writer.data_bytes(bytes).await;
    })
}

/// Sends mebibytes through a command and back, and compares.
async fn round_trip(client: &Client, mebibytes: u32) {
    let channel = begin(client, "cat").await;
    let data: Bytes = (0..mebibytes << 18).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into();
    let (mut reader, writer) = channel.split();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        writer.data_bytes(sent).await.unwrap();
        writer.eof().await.unwrap();
        writer
    });
    let mut back = Vec::with_capacity(data.len());
    while let Some(message) =
        tokio::time::timeout(Duration::from_secs(120), reader.wait()).await.expect("no standstill")
    {
        if let ChannelMsg::Data { data } = message {
            back.extend_from_slice(&data);
        }
    }
    drop(sending.await.unwrap());
    assert!(back == data, "{} bytes of {}", back.len(), data.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_never_read_stop_nobody_and_keep_nothing() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let data = Bytes::from(vec![b'x'; 20 << 20]);
    let before = resident_kib();
    let mut floods = Vec::new();
    for _ in 0..4 {
        floods.push(flood(begin(&client, "deaf").await, &data));
    }
    // They have filled what there is to fill.
    sleep(Duration::from_secs(2)).await;
    let longest = typing(&client).await;
    assert!(longest < Duration::from_secs(5), "an echo took {longest:?}");
    // Of 80 MB the client still has most: it may send, for each channel, what its window allows.
    let grown = resident_kib().saturating_sub(before) >> 10;
    assert!(grown < 60, "{grown} MiB more");
    round_trip(&client, 8).await;
    assert!(
        floods.iter().all(|flood| !flood.is_finished()),
        "20 MB were taken from a command that reads nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_reads_late_gets_everything() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let mut late = begin(&client, "slow 3000").await;
    late.data_bytes(Bytes::from(vec![b'x'; 20 << 20])).await.unwrap();
    late.eof().await.unwrap();
    let said = to_the_end(&mut late).await;
    assert_eq!((said.stdout, said.code), (format!("{}\n", 20 << 20).into_bytes(), Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_in_and_out_at_once_comes_to_no_standstill() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let channel = begin(&client, "cat").await;
    let (mut reader, writer) = channel.split();
    let data: Bytes = (0u32..50 << 18).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        writer.data_bytes(sent).await.unwrap();
        writer.eof().await.unwrap();
        writer
    });
    // The client begins to read when everything is full, and reads with breaks.
    sleep(Duration::from_secs(1)).await;
    let mut back = Vec::with_capacity(data.len());
    let mut breaks = 0;
    while let Some(message) =
        tokio::time::timeout(Duration::from_secs(120), reader.wait()).await.expect("no standstill")
    {
        if let ChannelMsg::Data { data } = message {
            back.extend_from_slice(&data);
            if back.len() >> 22 > breaks {
                breaks += 1;
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(sending.await.unwrap());
    assert!(back == data, "{} bytes of {}", back.len(), data.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_holds_up_its_own_channel_only() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.world.set_service(&name, TcpPort::new(80).unwrap(), FakeService::Echo);
    // A client with small windows that grants nothing for what it does not read: one packet a channel.
    let config =
        client::Config { window_size: 4096, channel_buffer_size: 10_000, ..client::Config::default() };
    let client = login_with(&api, "api", config).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(begin(&client, "yes 100000000").await);
    }
    assert!(typing(&client).await < Duration::from_secs(5));
    let tunnel = client.channel_open_direct_tcpip("localhost", 80, "", 0).await.unwrap();
    let mut stream = tunnel.into_stream();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"ping").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
    assert_eq!(exec(&client, "echo on").await.stdout, b"on\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_runs_thousands_of_commands_stays_small() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    for _ in 0..500 {
        assert_eq!(exec(&client, "true").await.code, Some(0));
    }
    let before = resident_kib();
    for _ in 0..2000 {
        assert_eq!(exec(&client, "true").await.code, Some(0));
    }
    let grown = resident_kib().saturating_sub(before);
    // What russh keeps of each channel, at both ends.
    assert!(grown < 2000 * 16, "{grown} KiB more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_commands_that_never_read_do_not_fill_the_servers_memory() {
    let api = Api::new().await;
    api.create("api").await;
    let client = login(&api, "api").await;
    let data = Bytes::from(vec![b'x'; 20 << 20]);
    let mut channels = Vec::new();
    for _ in 0..100 {
        channels.push(begin(&client, "deaf").await);
    }
    let before = resident_kib();
    let floods: Vec<_> = channels.into_iter().map(|channel| flood(channel, &data)).collect();
    sleep(Duration::from_secs(5)).await;
    let grown = resident_kib().saturating_sub(before) >> 10;
    // The server's 128 MiB, and as much again for the client in this process and what the allocator keeps. The windows alone
    // would allow 800, the data is 2,000.
    assert!(grown < 320, "{grown} MiB more");
    assert!(floods.iter().all(|flood| !flood.is_finished()));
    // Another connection has nothing to do with it, and when this one is gone so is what it held.
    let other = login(&api, "api").await;
    assert_eq!(exec(&other, "echo on").await.stdout, b"on\n");
}
