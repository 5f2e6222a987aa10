//! Moves bytes both ways between two streams, with half-close (spec A.8).

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};

/// Buffer of each direction: large enough that bulk output costs few system calls, small enough to have hundreds.
const BUFFER: usize = 64 << 10;

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) to_guest: u64,
    pub(super) to_client: u64,
}

/// Sends `early` and then everything from the client to the guest, and everything from the guest to the client.
///
/// The end of one direction is passed on as the shutdown of the other side's input; the other direction goes on.
/// Returns when both have ended, or with the first error; both streams are closed then.
pub(super) async fn splice<C, G>(mut client: C, early: &[u8], mut guest: G) -> io::Result<Moved>
where
    C: AsyncRead + AsyncWrite + Unpin,
    G: AsyncRead + AsyncWrite + Unpin,
{
    guest.write_all(early).await?;
    guest.flush().await?;
    let (to_guest, to_client) =
        copy_bidirectional_with_sizes(&mut client, &mut guest, BUFFER, BUFFER).await?;
    Ok(Moved { to_guest: to_guest + early.len() as u64, to_client })
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
