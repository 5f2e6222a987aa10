//! One client of the SSH agent: reads a request, asks over the bus, answers, until the client has gone.

use std::{io, time::Duration};

use shed_extensions::{
    Binary,
    ssh::{Keys, NAMESPACE, Request as Ask, Sign, Signature},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    NAME,
    wire::{self, MAX_MESSAGE, Request},
};
use crate::{
    bus::{APPROVED_LIMIT, Bus, LIMIT},
    say,
};

/// How long a client may be silent between two requests: those that keep a connection open for ever would take the places
/// of others.
const IDLE: Duration = Duration::from_secs(900);

/// How long the rest of a message may take once it has begun, and a client to read its answer.
const PROMPT: Duration = Duration::from_secs(10);

/// Serves until the client goes, breaks the protocol, or is silent for too long.
pub(super) async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, bus: &Bus) {
    while let Ok(Some(message)) = read(&mut stream).await {
        let answer = answer(&message, bus).await;
        match timeout(PROMPT, stream.write_all(&answer)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Reads one message without its length; nothing when the client has gone or says a length that is none.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut first = [0; 1];
    if timeout(IDLE, stream.read(&mut first)).await?? == 0 {
        return Ok(None);
    }
    let rest = async {
        let mut others = [0; 3];
        stream.read_exact(&mut others).await?;
        let length = u32::from_be_bytes([first[0], others[0], others[1], others[2]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 || length > MAX_MESSAGE {
            say::note(NAME, &format!("a client said a message of {length} bytes and was hung up on"));
            return Ok(None);
        }
        // It grows with what comes: a length alone costs nothing.
        let mut message = Vec::new();
        let wanted = u64::try_from(length).unwrap_or(u64::MAX);
        stream.take(wanted).read_to_end(&mut message).await?;
        Ok((message.len() == length).then_some(message))
    };
    timeout(PROMPT, rest).await?
}

async fn answer(message: &[u8], bus: &Bus) -> Vec<u8> {
    match wire::parse(message) {
        Request::List => match bus.ask::<Keys>(NAMESPACE, &Ask::List, LIMIT).await {
            Ok(keys) => {
                let (answer, left_out) = wire::keys(&keys.keys);
                if left_out > 0 {
                    say::note(NAME, &format!("{left_out} keys are left out: they do not fit into a list"));
                }
                answer
            }
            Err(error) => failed("list keys", &error.to_string()),
        },
        Request::Sign { key, data, flags } => {
            let sign = Sign { public_key: Binary(key.to_vec()), data: Binary(data.to_vec()), flags };
            match bus.ask::<Signature>(NAMESPACE, &Ask::Sign(sign), APPROVED_LIMIT).await {
                Ok(signature) => wire::signature(&signature)
                    .unwrap_or_else(|| failed("sign", "ssh-agent: the signature is too long for a message.")),
                Err(error) => failed("sign", &error.to_string()),
            }
        }
        Request::SessionBind => wire::success(),
        Request::BadExtension => wire::extension_failure(),
        Request::Other => wire::failure(),
    }
}

/// The protocol has no reasons; they are in the journal.
fn failed(what: &str, error: &str) -> Vec<u8> {
    say::error(NAME, &format!("cannot {what}: {error}"));
    wire::failure()
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// Sends bytes to a client's service without a bus and returns all that it answers.
    async fn exchange(bytes: &[u8]) -> Vec<u8> {
        let (mut ours, theirs) = duplex(MAX_MESSAGE * 2);
        // Nobody listens on port 1 of the loopback.
        let bus = Bus::at("http://127.0.0.1:1").unwrap();
        let server = tokio::spawn(async move { serve(theirs, &bus).await });
        let _hung_up = ours.write_all(bytes).await;
        let _hung_up = ours.shutdown().await;
        let mut answers = Vec::new();
        ours.read_to_end(&mut answers).await.unwrap();
        server.await.unwrap();
        answers
    }

    #[tokio::test]
    async fn each_message_is_answered_until_one_has_no_length() {
        let lock = [0, 0, 0, 1, 22];
        let list = [0, 0, 0, 1, 11];
        let bytes = [&lock[..], &list, &[0, 0, 0, 0], &lock].concat();
        assert_eq!(exchange(&bytes).await, [wire::failure(), wire::failure()].concat());
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_or_cut_off_ends_the_connection() {
        for bytes in [&[255; 64][..], &[0, 4, 0, 1, 11], &[0, 0, 0, 9, 11], &[0, 0], &[]] {
            assert!(exchange(bytes).await.is_empty(), "{bytes:?}");
        }
        let longest = [&[0, 4, 0, 0][..], &vec![0; MAX_MESSAGE]].concat();
        assert_eq!(exchange(&longest).await, wire::failure());
    }
}
