//! The mux under load, under loss and under fire, over in-memory pipes.

use std::{io, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use shed_link::{Incoming, MuxClosed, MuxHandle, MuxStream, OpenError, Synced, mux};
use shed_types::GuestPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Fails a test that hangs, with what it was waiting for.
async fn within<F: Future>(what: &str, future: F) -> F::Output {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Runs a guest that answers exec streams with `serve` and refuses the rest.
fn guest_with<F, S>(pipe: DuplexStream, serve: S) -> JoinHandle<MuxClosed>
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(MuxStream) -> F + Send + 'static,
{
    let (mut acceptor, driver) = mux::guest(Synced::fresh(pipe));
    tokio::spawn(async move {
        while let Some(incoming) = acceptor.accept().await {
            match incoming.port() {
                GuestPort::Exec | GuestPort::Tcp => {
                    let stream = incoming.accept().await.unwrap();
                    tokio::spawn(serve(stream));
                }
                _ => incoming.refuse("nothing there").await.unwrap(),
            }
        }
    });
    tokio::spawn(driver)
}

fn host(pipe: DuplexStream) -> (MuxHandle, JoinHandle<MuxClosed>) {
    let (handle, driver) = mux::host(Synced::fresh(pipe));
    (handle, tokio::spawn(driver))
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Sends everything back until the end, then half-closes.
async fn echo(stream: MuxStream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    // An error means that the host has gone, which some tests want.
    if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
        let _gone = writer.shutdown().await;
    }
}

async fn send_and_receive(handle: MuxHandle, seed: u64, length: usize) {
    let sent = noise(seed, length);
    let (mut reader, mut writer) = tokio::io::split(handle.open(GuestPort::Exec).await.unwrap());
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&copy).await.unwrap();
        writer.shutdown().await.unwrap();
        writer
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), sent.len());
    assert!(received == sent, "bytes were changed on the way");
    writing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_streams_both_ways_arrive_whole_through_any_pipe() {
    for pipe_size in [61, 4096, 256 * 1024] {
        let length = if pipe_size < 100 { 100_000 } else { 3_000_000 };
        let (ours, theirs) = duplex(pipe_size);
        let _guest = guest_with(theirs, echo);
        let (handle, _driver) = host(ours);
        let all: Vec<_> =
            (0..16).map(|n| tokio::spawn(send_and_receive(handle.clone(), n, length))).collect();
        for one in all {
            within(&format!("streams through a pipe of {pipe_size}"), one).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_thousand_streams_one_after_another_leave_nothing_behind() {
    let (ours, theirs) = duplex(4096);
    let _guest = guest_with(theirs, echo);
    let (handle, _driver) = host(ours);
    for n in 0..1500 {
        within("a stream in a long row", send_and_receive(handle.clone(), n, 10)).await;
    }
}

#[tokio::test]
async fn streams_dropped_without_a_word_leave_nothing_behind() {
    let (ours, theirs) = duplex(64 * 1024);
    let _guest = guest_with(theirs, echo);
    let (handle, _driver) = host(ours);
    for _ in 0..1500 {
        let mut stream = within("opening", handle.open(GuestPort::Exec)).await.unwrap();
        stream.write_all(b"unanswered").await.unwrap();
    }
    within("a stream after many dropped ones", send_and_receive(handle.clone(), 1, 1000)).await;
}

#[tokio::test]
async fn an_unread_stream_blocks_no_other() {
    let (ours, theirs) = duplex(4096);
    let _guest = guest_with(theirs, echo);
    let (handle, _driver) = host(ours);
    let mut unread = handle.open(GuestPort::Exec).await.unwrap();
    let filling = tokio::spawn(async move {
        // Echo stops when its own window is full; so does this, in time.
        let _stuck = timeout(Duration::from_secs(2), unread.write_all(&vec![1; 8 << 20])).await;
        unread
    });
    within("a stream beside an unread one", send_and_receive(handle.clone(), 3, 2_000_000)).await;
    drop(within("the unread stream", filling).await.unwrap());
}

#[tokio::test]
async fn a_refused_port_says_why() {
    let (ours, theirs) = duplex(4096);
    let _guest = guest_with(theirs, echo);
    let (handle, _driver) = host(ours);
    let error = within("refusal", handle.open(GuestPort::NineP)).await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Refused { port: GuestPort::NineP, reason } if reason == "nothing there"),
        "{error}"
    );
}

#[tokio::test]
async fn bytes_right_behind_the_answer_belong_to_the_stream() {
    let (ours, theirs) = duplex(4096);
    let _guest = guest_with(theirs, |mut stream| async move {
        stream.write_all(b"guest speaks first").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let (handle, _driver) = host(ours);
    let mut stream = handle.open(GuestPort::Exec).await.unwrap();
    let mut text = String::new();
    within("the guest's words", stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "guest speaks first");
}

#[tokio::test]
async fn a_killed_pipe_is_an_error_on_every_stream_and_never_an_end() {
    let (ours, theirs) = duplex(4096);
    let guest = guest_with(theirs, echo);
    let (handle, driver) = host(ours);
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(handle.open(GuestPort::Exec).await.unwrap());
    }
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| tokio::spawn(async move { stream.read_u8().await.unwrap_err().kind() }))
        .collect();
    tokio::task::yield_now().await;
    guest.abort();
    for reader in readers {
        assert_eq!(within("an error on a reader", reader).await.unwrap(), io::ErrorKind::ConnectionReset);
    }
    within("closed()", handle.closed()).await;
    assert!(handle.is_closed());
    assert!(matches!(within("open after the end", handle.open(GuestPort::Exec)).await, Err(OpenError::Gone)));
    assert!(matches!(within("the driver", driver).await.unwrap(), MuxClosed::ByPeer | MuxClosed::Broken(_)));
}

#[tokio::test]
async fn a_reset_stream_is_an_error_and_the_others_go_on() {
    let (ours, theirs) = duplex(4096);
    let _guest = guest_with(theirs, |mut stream| async move {
        // Dropped without a half-close.
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    });
    let (handle, _driver) = host(ours);
    let mut stream = handle.open(GuestPort::Exec).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let error = within("the reset", stream.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(!handle.is_closed());
}

#[tokio::test]
async fn a_half_closed_stream_that_is_dropped_does_not_hold_its_writer() {
    let (ours, theirs) = duplex(4096);
    let (done, mut finished) = tokio::sync::mpsc::channel(1);
    let _guest = guest_with(theirs, move |mut stream| {
        let done = done.clone();
        async move {
            let result = stream.write_all(&vec![7; 3 << 20]).await;
            done.send(result.is_ok()).await.unwrap();
        }
    });
    let (handle, driver) = host(ours);
    let mut stream = handle.open(GuestPort::Exec).await.unwrap();
    stream.shutdown().await.unwrap();
    // With the last handle, too: there may be a mux for this one stream.
    drop((handle, stream));
    assert_eq!(within("the writer whose reader has gone", finished.recv()).await, Some(true));
    assert!(matches!(within("the driver", driver).await.unwrap(), MuxClosed::Unused));
}

#[tokio::test]
async fn the_limit_of_streams_is_an_error_and_not_the_end() {
    let (ours, theirs) = duplex(64 * 1024);
    let _guest = guest_with(theirs, echo);
    let (handle, _driver) = host(ours);
    let mut streams = Vec::new();
    for _ in 0..mux::MAX_STREAMS {
        streams.push(within("a stream below the limit", handle.open(GuestPort::Exec)).await.unwrap());
    }
    assert!(matches!(handle.open(GuestPort::Exec).await, Err(OpenError::TooMany { .. })));
    streams.pop();
    within("a stream after one has gone", send_and_receive(handle.clone(), 1, 100)).await;
}

#[tokio::test]
async fn tunnels_leave_room_for_commands() {
    let (ours, theirs) = duplex(64 * 1024);
    let _guest = guest_with(theirs, echo);
    let (handle, _driver) = host(ours);
    let mut tunnels = Vec::new();
    let limit = loop {
        match within("a tunnel", handle.open(GuestPort::Tcp)).await {
            Ok(stream) => tunnels.push(stream),
            Err(OpenError::TooMany { limit }) => break limit,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(tunnels.len(), limit);
    assert!((1000..mux::MAX_STREAMS).contains(&limit), "{limit}");
    within("a command beside them", send_and_receive(handle.clone(), 1, 100)).await;
}

#[tokio::test]
async fn dropping_all_handles_and_streams_ends_the_mux() {
    let (ours, theirs) = duplex(4096);
    let guest = guest_with(theirs, echo);
    let (handle, driver) = host(ours);
    let stream = handle.open(GuestPort::Exec).await.unwrap();
    drop(handle);
    assert!(!driver.is_finished(), "a stream keeps the mux");
    drop(stream);
    assert!(matches!(within("the driver", driver).await.unwrap(), MuxClosed::Unused));
    assert!(matches!(within("the guest's driver", guest).await.unwrap(), MuxClosed::ByPeer));
}

#[tokio::test]
async fn hostile_bytes_end_the_mux_and_never_panic() {
    for seed in 0..300 {
        let (ours, mut theirs) = duplex(4096);
        let (handle, driver) = host(ours);
        let opening =
            tokio::spawn(async move { handle.open(GuestPort::Exec).await.err().map(|e| e.to_string()) });
        let mut bytes = noise(seed, 600);
        if seed % 2 == 0 {
            // A valid beginning gets further into the decoder: version 0, then a known type.
            for header in bytes.chunks_mut(12) {
                header[0] = 0;
                header[1] %= 4;
                header[2] = 0;
            }
        }
        let _closed_early = theirs.write_all(&bytes).await;
        drop(theirs);
        assert!(within("the end of an opening", opening).await.unwrap().is_some());
        within("the end of the driver", driver).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_without_a_good_line_is_refused() {
    for line in [&b"GET / HTTP/1.1\r\n"[..], b"CONNECT 1\n", b"CONNECT 99999999999\n", b"\n"] {
        let (mut ours, theirs) = duplex(4096);
        ours.write_all(line).await.unwrap();
        assert!(within("a bad line", Incoming::read(theirs)).await.is_err());
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("ERR "), "{answer:?}");
    }
    let (mut ours, theirs) = duplex(4096);
    ours.write_all(&[b'x'; 200]).await.unwrap();
    assert!(within("an endless line", Incoming::read(theirs)).await.is_err());
}
