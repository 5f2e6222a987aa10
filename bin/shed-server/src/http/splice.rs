//! Moves bytes both ways between two streams, with half-close (spec A.8).

use std::{io, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, sink, split};
use tokio_util::sync::CancellationToken;

/// Buffer of each direction: large enough that bulk output costs few system calls, small enough to have hundreds.
const BUFFER: usize = 64 << 10;

/// How long a client may take to read the last of what a guest said that listens no more. Closing a socket that has
/// unread input resets it (RFC 9293 §3.10.7.1), and the reset takes with it what the client has not read yet.
const LINGER: Duration = Duration::from_secs(10);

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) to_guest: u64,
    pub(super) to_client: u64,
}

/// Sends `early` and then everything from the client to the guest, and everything from the guest to the client.
///
/// The end of one direction is passed on as the shutdown of the other side's input; the other direction goes on. A
/// guest that takes no more input (its command has ended) is still heard to its end, while the client's input is
/// read and dropped. Returns when both have ended, or with the first error of the client's side.
pub(super) async fn splice<C, G>(client: C, early: &[u8], guest: G) -> io::Result<Moved>
where
    C: AsyncRead + AsyncWrite + Unpin,
    G: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = split(client);
    let (mut from_guest, mut to_guest) = split(guest);
    let refused = CancellationToken::new();

    let up = async {
        let (moved, end) = send_up(&mut from_client, early, &mut to_guest).await?;
        if end == UpEnd::GuestRefused {
            refused.cancel();
            tokio::io::copy(&mut from_client, &mut sink()).await?;
        }
        Ok::<u64, io::Error>(moved)
    };
    let down = async {
        let moved = copy(&mut from_guest, &mut to_client).await;
        // A guest that breaks off is, to the client, one that has ended.
        let _client_gone = to_client.shutdown().await;
        moved
    };
    tokio::pin!(up, down);

    let mut moved = Moved::default();
    tokio::select! {
        result = &mut up => {
            moved.to_guest = result?;
            moved.to_client = down.await?;
        }
        result = &mut down => {
            moved.to_client = result?;
            let lingered = async {
                refused.cancelled().await;
                tokio::time::sleep(LINGER).await;
            };
            tokio::select! {
                result = &mut up => moved.to_guest = result?,
                () = lingered => {}
            }
        }
    }
    Ok(moved)
}

/// How the way to the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpEnd {
    /// The client has said all, and the guest knows.
    ClientEnded,
    /// The guest takes no more.
    GuestRefused,
}

async fn send_up<R, W>(client: &mut R, early: &[u8], guest: &mut W) -> io::Result<(u64, UpEnd)>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut moved = 0;
    let mut buffer = vec![0; BUFFER];
    let mut piece = early;
    loop {
        if guest.write_all(piece).await.is_err() || guest.flush().await.is_err() {
            return Ok((moved, UpEnd::GuestRefused));
        }
        moved += piece.len() as u64;
        let count = client.read(&mut buffer).await?;
        if count == 0 {
            // A guest that is gone needs not be told.
            let _gone = guest.shutdown().await;
            return Ok((moved, UpEnd::ClientEnded));
        }
        piece = &buffer[..count];
    }
}

async fn copy<R, W>(guest: &mut R, client: &mut W) -> io::Result<u64>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut moved = 0;
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(count @ 1..) = guest.read(&mut buffer).await else { return Ok(moved) };
        client.write_all(&buffer[..count]).await?;
        client.flush().await?;
        moved += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn early_bytes_come_first_and_half_close_is_passed_on() {
        let (mut client, near) = duplex(64);
        let (mut guest, far) = duplex(64);
        let task = tokio::spawn(async move { splice(near, b"early ", far).await });
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
        assert_eq!(task.await.unwrap().unwrap(), Moved { to_guest: 10, to_client: 6 });
    }

    #[tokio::test]
    async fn a_guest_that_has_ended_is_heard_while_the_client_still_sends() {
        let (mut client, near) = duplex(64);
        let (mut guest, far) = duplex(1 << 20);
        let task = tokio::spawn(async move { splice(near, b"", far).await });
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
        assert_eq!(task.await.unwrap().unwrap().to_client, 10_000);
    }

    #[tokio::test]
    async fn bulk_passes_unchanged_both_ways_at_once() {
        let (client, near) = duplex(1000);
        let (guest, far) = duplex(777);
        let task = tokio::spawn(async move { splice(near, b"", far).await });
        let echo = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(guest);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let data: Vec<u8> = (0u32..250_000).flat_map(u32::to_le_bytes).collect();
        let (mut reader, mut writer) = tokio::io::split(client);
        let sent = data.clone();
        let send = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        reader.read_to_end(&mut back).await.unwrap();
        assert!(back == data);
        for task in [echo, send] {
            task.await.unwrap();
        }
        assert_eq!(task.await.unwrap().unwrap(), Moved { to_guest: 1_000_000, to_client: 1_000_000 });
    }
}
