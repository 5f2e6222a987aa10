//! Frames: one type byte, a big-endian u32 length, the payload (spec B.2).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// Largest payload of one frame, 1 MiB (design §4). More data is a sequence of frames.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Type byte and length.
const HEADER: usize = 5;

/// What a frame carries; the discriminants are the type bytes of spec B.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// JSON [`ExecRequest`](crate::ExecRequest); the first frame of an exec stream.
    ExecRequest,
    /// JSON [`Resize`](crate::Resize) of the pty.
    Resize,
    /// JSON [`Signal`](crate::Signal) for the process group.
    Signal,
    /// JSON [`ExitStatus`](crate::ExitStatus); the last frame of an exec stream.
    ExitStatus,
    /// Raw bytes: stdin to the guest, stdout (or the pty's output) to the host. Empty ones are probes.
    Data,
    /// The host's stdin has ended.
    StdinEof,
    /// Raw bytes of stderr, to the host. Never sent with a pty.
    Stderr,
    /// Asks for a [`FrameKind::HealthResponse`].
    HealthRequest,
    /// Answers a [`FrameKind::HealthRequest`].
    HealthResponse,
    /// JSON [`Envelope`](crate::Envelope) on the message channel.
    Message,
    /// JSON [`FilesRequest`](crate::FilesRequest); the first frame of a stream of files.
    FilesRequest,
    /// JSON [`FilesReply`](crate::FilesReply); the last frame of a stream of files.
    FilesReply,
    /// JSON [`SetupRequest`](crate::SetupRequest); the first frame of a setup.
    SetupRequest,
    /// JSON [`SetupEvent`](crate::SetupEvent): a step of a setup begins or ends.
    SetupEvent,
    /// JSON [`SetupReply`](crate::SetupReply); the last frame of a setup.
    SetupReply,
}

impl FrameKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 15] = [
        Self::ExecRequest,
        Self::Resize,
        Self::Signal,
        Self::ExitStatus,
        Self::Data,
        Self::StdinEof,
        Self::Stderr,
        Self::HealthRequest,
        Self::HealthResponse,
        Self::Message,
        Self::FilesRequest,
        Self::FilesReply,
        Self::SetupRequest,
        Self::SetupEvent,
        Self::SetupReply,
    ];

    /// Returns the type byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::ExecRequest => 0x01,
            Self::Resize => 0x02,
            Self::Signal => 0x03,
            Self::ExitStatus => 0x04,
            Self::Data => 0x05,
            Self::StdinEof => 0x06,
            Self::Stderr => 0x07,
            Self::HealthRequest => 0x10,
            Self::HealthResponse => 0x11,
            Self::Message => 0x20,
            Self::FilesRequest => 0x30,
            Self::FilesReply => 0x31,
            Self::SetupRequest => 0x32,
            Self::SetupEvent => 0x33,
            Self::SetupReply => 0x34,
        }
    }

    /// Returns the kind with this type byte; newer peers may send bytes that are not known here.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

impl Frame {
    /// Makes a frame of raw bytes.
    #[must_use]
    pub const fn new(kind: FrameKind, payload: Bytes) -> Self {
        Self { kind, payload }
    }

    /// Makes a frame without a payload.
    #[must_use]
    pub const fn empty(kind: FrameKind) -> Self {
        Self { kind, payload: Bytes::new() }
    }

    /// Makes a frame whose payload is `value` as JSON.
    ///
    /// # Panics
    /// When `value` cannot be written as JSON, which none of this crate's types do.
    #[must_use]
    pub fn json<T: serde::Serialize>(kind: FrameKind, value: &T) -> Self {
        let payload = serde_json::to_vec(value).expect("protocol types serialise without error");
        Self { kind, payload: payload.into() }
    }

    /// Reads the payload as JSON.
    ///
    /// # Errors
    /// When the payload is not the JSON of a `T`.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.payload)
            .map_err(|source| FrameError::Payload { kind: self.kind, source })
    }
}

/// Says why bytes are not frames.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream cannot be understood any further and must be closed.
    #[error("the peer announced a frame of {length} bytes; at most {MAX_PAYLOAD} are allowed")]
    TooLong {
        /// The announced length.
        length: usize,
    },
    /// The payload does not fit the frame's kind.
    #[error("the payload of a {kind:?} frame cannot be read")]
    Payload {
        /// The frame's kind.
        kind: FrameKind,
        /// What the JSON reader says.
        #[source]
        source: serde_json::Error,
    },
    /// The stream itself failed; the codec traits of tokio-util ask for this.
    #[error("the stream of frames broke")]
    Io(
        /// What the stream says.
        #[from]
        std::io::Error,
    ),
}

/// Reads and writes frames on a byte stream, for `tokio_util::codec::Framed`.
///
/// Frames of unknown type are skipped, as the specification asks, so that a newer peer may add some.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameCodec;

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            let Some(header) = src.get(..HEADER) else {
                src.reserve(HEADER);
                return Ok(None);
            };
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            if length > MAX_PAYLOAD {
                return Err(FrameError::TooLong { length });
            }
            let kind = FrameKind::from_byte(header[0]);
            if src.len() < HEADER + length {
                src.reserve(HEADER + length - src.len());
                return Ok(None);
            }
            src.advance(HEADER);
            let payload = src.split_to(length).freeze();
            if let Some(kind) = kind {
                return Ok(Some(Frame { kind, payload }));
            }
        }
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), FrameError> {
        let length = frame.payload.len();
        let Some(wire_length) = u32::try_from(length).ok().filter(|_| length <= MAX_PAYLOAD) else {
            return Err(FrameError::TooLong { length });
        };
        dst.reserve(HEADER + length);
        dst.put_u8(frame.kind.byte());
        dst.put_u32(wire_length);
        dst.put_slice(&frame.payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut buffer = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = FrameCodec.decode(&mut buffer)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn the_layout_is_type_then_big_endian_length_then_payload() {
        let mut out = BytesMut::new();
        FrameCodec.encode(Frame::new(FrameKind::Data, Bytes::from_static(b"hi")), &mut out).unwrap();
        assert_eq!(&out[..], [0x05, 0, 0, 0, 2, b'h', b'i']);
    }

    #[test]
    fn type_bytes_are_unique_and_reversible() {
        for kind in FrameKind::ALL {
            assert_eq!(FrameKind::from_byte(kind.byte()), Some(kind));
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_from_its_header_alone() {
        let error = decode_all(&[0x05, 0, 0x10, 0, 1]).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { length: 0x10_0001 }), "{error}");
    }

    #[test]
    fn the_largest_frame_passes() {
        let frame = Frame::new(FrameKind::Data, Bytes::from(vec![7; MAX_PAYLOAD]));
        let mut out = BytesMut::new();
        FrameCodec.encode(frame.clone(), &mut out).unwrap();
        assert_eq!(decode_all(&out).unwrap(), [frame]);
        let too_long = Frame::new(FrameKind::Data, Bytes::from(vec![7; MAX_PAYLOAD + 1]));
        assert!(FrameCodec.encode(too_long, &mut out).is_err());
    }

    #[test]
    fn frames_of_unknown_type_are_skipped() {
        let frames = decode_all(&[0xee, 0, 0, 0, 1, 9, 0x06, 0, 0, 0, 0]).unwrap();
        assert_eq!(frames, [Frame::empty(FrameKind::StdinEof)]);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            payloads in prop::collection::vec((0usize..FrameKind::ALL.len(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            cut in 1usize..50,
        ) {
            let frames: Vec<Frame> =
                payloads.into_iter().map(|(k, p)| Frame::new(FrameKind::ALL[k], p.into())).collect();
            let mut wire = BytesMut::new();
            for frame in &frames {
                FrameCodec.encode(frame.clone(), &mut wire).unwrap();
            }
            let mut seen = Vec::new();
            let mut buffer = BytesMut::new();
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = FrameCodec.decode(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn no_input_makes_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _unused = decode_all(&bytes);
        }
    }
}
