//! The SSH agent protocol (RFC 9987), as far as a client needs it that lists and signs. Pure: no I/O.
//!
//! Keys and signatures stay the bytes that the agent sent: one of a kind that is not known here, of a security key for
//! example, signs as well as any other.

use shed_extensions::{
    Binary, clean,
    ssh::{Key, Signature},
};

/// Longest message in bytes, as OpenSSH has it.
pub(super) const MAX_MESSAGE: usize = 256 << 10;

/// Longest comment of a key that is passed on, in characters.
const COMMENT: usize = 256;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Why an agent's answer cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("the agent refuses")]
    Refused,
    #[error("the agent's answer is not of the SSH agent protocol")]
    Malformed,
    #[error("what is to be signed is too long for an agent")]
    TooLong,
}

/// Makes the question which keys there are.
pub(super) fn list_request() -> Vec<u8> {
    vec![0, 0, 0, 1, REQUEST_IDENTITIES]
}

/// Makes the request for a signature.
pub(super) fn sign_request(blob: &[u8], data: &[u8], flags: u32) -> Result<Vec<u8>, WireError> {
    let length = 1 + 4 + blob.len() + 4 + data.len() + 4;
    if length > MAX_MESSAGE {
        return Err(WireError::TooLong);
    }
    let mut message = Vec::with_capacity(4 + length);
    put_length(&mut message, length)?;
    message.push(SIGN_REQUEST);
    for text in [blob, data] {
        put_length(&mut message, text.len())?;
        message.extend_from_slice(text);
    }
    message.extend_from_slice(&flags.to_be_bytes());
    Ok(message)
}

fn put_length(message: &mut Vec<u8>, length: usize) -> Result<(), WireError> {
    let length = u32::try_from(length).map_err(|_| WireError::TooLong)?;
    message.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Reads which keys there are from a message without its length.
pub(super) fn read_keys(message: &[u8]) -> Result<Vec<Key>, WireError> {
    let mut rest = answer(message, IDENTITIES_ANSWER)?;
    let count = take_number(&mut rest)?;
    let mut keys = Vec::new();
    // The count is the agent's word; the bytes end before a wrong one does harm.
    for _ in 0..count {
        let blob = take_text(&mut rest)?;
        let comment = String::from_utf8_lossy(take_text(&mut rest)?);
        let format = key_format(blob).ok_or(WireError::Malformed)?;
        keys.push(Key { format, blob: Binary(blob.to_vec()), comment: clean(&comment, COMMENT) });
    }
    Ok(keys)
}

/// Reads a signature from a message without its length.
pub(super) fn read_signature(message: &[u8]) -> Result<Signature, WireError> {
    let mut rest = answer(message, SIGN_RESPONSE)?;
    let mut signature = take_text(&mut rest)?;
    let format = format_name(take_text(&mut signature)?).ok_or(WireError::Malformed)?;
    let blob = Binary(take_text(&mut signature)?.to_vec());
    let rest = (!signature.is_empty()).then(|| Binary(signature.to_vec()));
    Ok(Signature { format, blob, rest })
}

/// Returns the algorithm of a key as it is on the wire.
pub(super) fn key_format(mut blob: &[u8]) -> Option<String> {
    take_text(&mut blob).ok().and_then(format_name)
}

/// Names of algorithms are printable ASCII of at most 64 bytes (RFC 4251, section 6).
fn format_name(name: &[u8]) -> Option<String> {
    let is_name = !name.is_empty() && name.len() <= 64 && name.iter().all(u8::is_ascii_graphic);
    is_name.then(|| String::from_utf8_lossy(name).into_owned())
}

fn answer(message: &[u8], kind: u8) -> Result<&[u8], WireError> {
    match message.split_first() {
        Some((first, rest)) if *first == kind => Ok(rest),
        Some((&FAILURE, _)) => Err(WireError::Refused),
        _ => Err(WireError::Malformed),
    }
}

fn take_number(rest: &mut &[u8]) -> Result<u32, WireError> {
    let (number, after) = rest.split_first_chunk::<4>().ok_or(WireError::Malformed)?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    let length = usize::try_from(take_number(rest)?).map_err(|_| WireError::Malformed)?;
    let (text, after) = rest.split_at_checked(length).ok_or(WireError::Malformed)?;
    *rest = after;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    #[test]
    fn keys_and_signatures_are_read_as_they_are() {
        let blob = [text(b"sk-ssh-ed25519@openssh.com"), text(&[7; 32]), text(b"ssh:")].concat();
        let message =
            [&[IDENTITIES_ANSWER, 0, 0, 0, 1], text(&blob).as_slice(), &text(b"me\x1b[2J")].concat();
        let keys = read_keys(&message).unwrap();
        let expected = Key {
            format: "sk-ssh-ed25519@openssh.com".into(),
            blob: Binary(blob),
            comment: "me\u{fffd}[2J".into(),
        };
        assert_eq!(keys, [expected]);

        let signature = [text(b"sk-ssh-ed25519@openssh.com"), text(&[9; 64]), vec![1, 0, 0, 0, 5]].concat();
        let read = read_signature(&[&[SIGN_RESPONSE], text(&signature).as_slice()].concat()).unwrap();
        assert_eq!((read.blob, read.rest), (Binary(vec![9; 64]), Some(Binary(vec![1, 0, 0, 0, 5]))));
        assert_eq!(read_signature(&[FAILURE]), Err(WireError::Refused));
    }

    #[test]
    fn a_request_has_its_length_and_its_bound() {
        let message = sign_request(b"key", b"data", 4).unwrap();
        assert_eq!(
            message.len(),
            4 + usize::try_from(u32::from_be_bytes(*message.first_chunk().unwrap())).unwrap()
        );
        assert!(message.ends_with(&[0, 0, 0, 4]));
        assert_eq!(sign_request(b"key", &vec![0; MAX_MESSAGE], 0), Err(WireError::TooLong));
    }

    proptest! {
        #[test]
        fn no_answer_of_an_agent_is_taken_on_trust(kind in 0..20_u8, bytes: Vec<u8>, count: u32) {
            let message = [&[kind], bytes.as_slice()].concat();
            let _any = (read_signature(&message), key_format(&bytes));
            let message = [&[IDENTITIES_ANSWER], count.to_be_bytes().as_slice(), &bytes].concat();
            if let Ok(keys) = read_keys(&message) {
                prop_assert!(keys.len() * 8 <= bytes.len());
            }
        }
    }
}
