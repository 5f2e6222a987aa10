//! The handshake against everything that a virtio-serial port may hold.

use std::time::Duration;

use proptest::prelude::*;
use shed_link::{
    GuestLine, HandshakeError, HostLine, MuxClosed, Nonce, Synced, guest_handshake, host_handshake, mux,
};
use shed_types::GuestPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(30);

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Checks that each end reads exactly what the other wrote after the handshake.
async fn exchange(mut host: Synced<DuplexStream>, mut guest: Synced<DuplexStream>) {
    host.write_all(b"\0from host").await.unwrap();
    guest.write_all(b"\0from guest").await.unwrap();
    host.shutdown().await.unwrap();
    guest.shutdown().await.unwrap();
    let (mut at_host, mut at_guest) = (Vec::new(), Vec::new());
    within("host's bytes", host.read_to_end(&mut at_host)).await.unwrap();
    within("guest's bytes", guest.read_to_end(&mut at_guest)).await.unwrap();
    assert_eq!((&at_host[..], &at_guest[..]), (&b"\0from guest"[..], &b"\0from host"[..]));
}

#[tokio::test]
async fn both_ends_agree_on_an_empty_pipe_in_any_order() {
    for guest_first in [true, false] {
        let (host_end, guest_end) = duplex(4096);
        let (host, guest) = if guest_first {
            let guest = tokio::spawn(guest_handshake(guest_end, 1));
            tokio::task::yield_now().await;
            (tokio::spawn(host_handshake(host_end)), guest)
        } else {
            let host = tokio::spawn(host_handshake(host_end));
            tokio::task::yield_now().await;
            (host, tokio::spawn(guest_handshake(guest_end, 1)))
        };
        let host = within("host", host).await.unwrap().unwrap();
        exchange(host, within("guest", guest).await.unwrap().unwrap()).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn stale_bytes_in_both_directions_are_thrown_away(
        to_host in prop::collection::vec(any::<u8>(), 0..3000),
        to_guest in prop::collection::vec(any::<u8>(), 0..3000),
        old_lines in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut host_end, mut guest_end) = duplex(8192);
            host_end.write_all(&to_guest).await.unwrap();
            guest_end.write_all(&to_host).await.unwrap();
            if old_lines {
                let old = Nonce::random();
                host_end.write_all(HostLine::Host(old).to_line().as_bytes()).await.unwrap();
                host_end.write_all(HostLine::Go(Nonce::random()).to_line().as_bytes()).await.unwrap();
                guest_end.write_all(GuestLine::Ready(old).to_line().as_bytes()).await.unwrap();
                guest_end.write_all(GuestLine::Hello { generation: 9 }.to_line().as_bytes()).await.unwrap();
            }
            let (host, guest) =
                within("agreement", async { tokio::join!(host_handshake(host_end), guest_handshake(guest_end, 2)) }).await;
            exchange(host.unwrap(), guest.unwrap()).await;
        });
    }
}

/// A guest as the agent runs it: handshake, mux until it ends, and again on the same pipe.
async fn guest_for_ever(mut pipe: DuplexStream, old_mux_first: bool) {
    if old_mux_first {
        let (mut acceptor, driver) = mux::guest(Synced::fresh(&mut pipe));
        let (_none, reason) =
            within("the end of the old mux", async { tokio::join!(acceptor.accept(), driver) }).await;
        assert!(matches!(reason, MuxClosed::Broken(_)), "{reason}");
    }
    let synced = guest_handshake(pipe, 2).await.unwrap();
    let (mut acceptor, driver) = mux::guest(synced);
    let driver = tokio::spawn(driver);
    while let Some(incoming) = acceptor.accept().await {
        let mut stream = incoming.accept().await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
    }
    driver.await.unwrap();
}

async fn open_and_read(host_end: DuplexStream) {
    let synced = within("the host's handshake", host_handshake(host_end)).await.unwrap();
    let (handle, driver) = mux::host(synced);
    tokio::spawn(driver);
    let mut stream = within("open", handle.open(GuestPort::Health)).await.unwrap();
    let mut text = String::new();
    within("read", stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "hello");
}

#[tokio::test]
async fn a_host_line_that_breaks_the_guests_old_mux_is_said_again() {
    let (host_end, guest_end) = duplex(4096);
    let guest = tokio::spawn(guest_for_ever(guest_end, true));
    open_and_read(host_end).await;
    within("the guest", guest).await.unwrap();
}

#[tokio::test]
async fn a_guest_in_the_middle_of_an_old_frame_is_thrown_out_of_it() {
    let (mut host_end, guest_end) = duplex(4096);
    // The old host died behind the header of a data frame of 64 KiB on a new stream (flags SYN, stream 1).
    host_end.write_all(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0]).await.unwrap();
    host_end.write_all(b"and a few bytes of its body").await.unwrap();
    let guest = tokio::spawn(guest_for_ever(guest_end, true));
    open_and_read(host_end).await;
    within("the guest", guest).await.unwrap();
}

#[tokio::test]
async fn a_restarted_guest_throws_the_host_out_of_an_old_frame() {
    let (host_end, mut guest_end) = duplex(4096);
    let (handle, driver) = mux::host(Synced::fresh(host_end));
    let driver = tokio::spawn(driver);
    guest_end.write_all(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]).await.unwrap();
    let guest = tokio::spawn(guest_handshake(guest_end, 1));
    let reason = within("the end of the host's mux", driver).await.unwrap();
    assert!(matches!(reason, MuxClosed::Broken(_)), "{reason}");
    assert!(handle.is_closed());
    assert!(matches!(
        within("the guest", guest).await.unwrap(),
        Err(HandshakeError::Closed | HandshakeError::Io(_))
    ));
}

#[tokio::test]
async fn a_flooding_guest_gets_few_answers() {
    let (host_end, mut guest_end) = duplex(1 << 20);
    let host = tokio::spawn(host_handshake(host_end));
    let flood = GuestLine::Hello { generation: 1 }.to_line().repeat(5000);
    guest_end.write_all(flood.as_bytes()).await.unwrap();
    let mut answers = vec![0; 4096];
    let mut seen = 0;
    while let Ok(Ok(length)) = timeout(Duration::from_millis(100), guest_end.read(&mut answers)).await {
        seen += length;
    }
    assert!(seen > 0 && seen < 1000, "{seen} bytes in answer");
    assert!(!host.is_finished());
    host.abort();
}

#[tokio::test]
async fn a_closed_pipe_ends_the_handshake() {
    let (host_end, guest_end) = duplex(4096);
    drop(guest_end);
    assert!(within("the host", host_handshake(host_end)).await.is_err());
    let (host_end, guest_end) = duplex(4096);
    drop(host_end);
    assert!(within("the guest", guest_handshake(guest_end, 1)).await.is_err());
}
