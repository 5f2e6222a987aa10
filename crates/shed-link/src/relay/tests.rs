use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;

const SOON: Duration = Duration::from_secs(20);

const RULES: Rules = Rules { far_break: FarBreak::IsAnEnd, linger: Duration::from_secs(10) };

const STRICT: Rules = Rules { far_break: FarBreak::IsAnError, linger: Duration::from_secs(10) };

#[tokio::test]
async fn early_bytes_come_first_and_half_close_is_passed_on() {
    let (mut client, near) = duplex(64);
    let (mut guest, far) = duplex(64);
    let task = tokio::spawn(async move { relay(near, b"early ", far, RULES).await });
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    guest.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "early late");
    // The client has said all it has to say; the answer still gets through.
    guest.write_all(b"answer").await.unwrap();
    guest.shutdown().await.unwrap();
    text.clear();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    assert_eq!(task.await.unwrap().unwrap(), Moved { out: 10, back: 6 });
}

#[tokio::test]
async fn a_guest_that_has_ended_is_heard_while_the_client_still_sends() {
    let (mut client, near) = duplex(64);
    let (mut guest, far) = duplex(1 << 20);
    let task = tokio::spawn(async move { relay(near, b"", far, RULES).await });
    guest.write_all(&[b'x'; 10_000]).await.unwrap();
    // Both directions end: what was said before is still to be read by the other side.
    drop(guest);
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let send = async {
        for _ in 0..1000 {
            writer.write_all(&[b'y'; 1000]).await.unwrap();
        }
    };
    let mut heard = Vec::new();
    let (read, ()) = tokio::join!(reader.read_to_end(&mut heard), send);
    assert_eq!((read.unwrap(), heard.len()), (10_000, 10_000));
    drop(client);
    assert_eq!(task.await.unwrap().unwrap().back, 10_000);
}

#[tokio::test]
async fn a_client_that_sends_for_ever_is_left_when_the_guest_has_gone() {
    let (mut client, near) = duplex(64);
    let (guest, far) = duplex(64);
    let rules = Rules { linger: Duration::from_millis(200), ..RULES };
    let begun = Instant::now();
    let task = tokio::spawn(async move { relay(near, b"", far, rules).await });
    drop(guest);
    let send = async { while client.write_all(b"more").await.is_ok() {} };
    timeout(SOON, send).await.expect("the relay gives up");
    assert!(begun.elapsed() >= rules.linger);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn bulk_passes_unchanged_both_ways_at_once() {
    let (client, near) = duplex(1000);
    let (guest, far) = duplex(777);
    let task = tokio::spawn(async move { relay(near, b"", far, RULES).await });
    let echo = tokio::spawn(echo(guest));
    let data: Vec<u8> = (0u32..250_000).flat_map(u32::to_le_bytes).collect();
    assert!(through(client, data.clone()).await == data);
    echo.await.unwrap();
    assert_eq!(task.await.unwrap().unwrap(), Moved { out: 1_000_000, back: 1_000_000 });
}

async fn echo(stream: DuplexStream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    writer.shutdown().await.unwrap();
}

/// Sends everything and the end, and returns what comes back.
async fn through(stream: impl AsyncRead + AsyncWrite + Send + 'static, data: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = tokio::spawn(async move {
        writer.write_all(&data).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    reader.read_to_end(&mut back).await.unwrap();
    send.await.unwrap();
    back
}

/// Says something, then breaks.
struct Breaking(&'static [u8]);

impl AsyncRead for Breaking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        buf.put_slice(self.0);
        self.0 = b"";
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        _data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_far_side_that_breaks_is_an_end_or_an_error_as_the_rules_say() {
    let (mut client, near) = duplex(64);
    let task = tokio::spawn(async move { relay(near, b"", Breaking(b"half an ans"), RULES).await });
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "half an ans");
    drop(client);
    task.await.unwrap().unwrap();

    let (mut client, near) = duplex(64);
    let error = relay(near, b"refused", Breaking(b"half an ans"), STRICT).await.unwrap_err();
    assert!(matches!(error, Broken::Far(_)), "{error:?}");
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("half an ans"), "{text}");
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

#[tokio::test]
async fn a_tcp_side_carries_bulk_both_ways_and_half_close() {
    let (client, near) = pair().await;
    let (guest, far) = duplex(5000);
    let task = tokio::spawn(async move { relay(TcpSide::new(&near), b"", far, STRICT).await });
    let echo = tokio::spawn(echo(guest));
    let data: Vec<u8> = (0u32..250_000).flat_map(u32::to_le_bytes).collect();
    assert!(through(client, data.clone()).await == data);
    echo.await.unwrap();
    assert_eq!(task.await.unwrap().unwrap(), Moved { out: 1_000_000, back: 1_000_000 });
}

#[tokio::test]
async fn a_reset_is_seen_behind_an_end_and_behind_a_stalled_write() {
    for sends in [b"".to_vec(), vec![7; 4 << 20]] {
        let (mut client, near) = pair().await;
        // Reads nothing, so that the relay waits for room.
        let (_guest, far) = duplex(10);
        let stalls = !sends.is_empty();
        let sending = tokio::spawn(async move {
            if stalls {
                let _stalled = timeout(Duration::from_millis(200), client.write_all(&sends)).await;
            } else {
                client.shutdown().await.unwrap();
            }
            TcpSide::new(&client).break_off();
        });
        let side = TcpSide::new(&near);
        let broken = async {
            tokio::select! {
                error = relay(side, b"", far, STRICT) => error.unwrap_err(),
                error = side.gone() => Broken::Near(error),
            }
        };
        let broken = timeout(SOON, broken).await.expect("the reset is noticed");
        assert!(matches!(broken, Broken::Near(_)), "{broken:?}");
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn breaking_off_resets_the_peer() {
    let (mut client, near) = pair().await;
    TcpSide::new(&near).break_off();
    drop(near);
    let error = timeout(SOON, client.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
