//! The pieces that messages consist of: integers (little-endian), strings and data with their length in front.

/// Names a request until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u16);

impl Tag {
    /// The tag of a version request (`P9_NOTAG`).
    pub const NONE: Self = Self(u16::MAX);
}

/// The client's number for a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fid(pub u32);

impl Fid {
    /// No fid (`P9_NOFID`).
    pub const NONE: Self = Self(u32::MAX);
}

/// Says why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It ends too early, or goes on behind its end.
    Malformed,
    /// It has a type that is no request.
    UnknownType(u8),
    /// A name in it is none: empty, `.`, `..`, or with a `/` or NUL in it.
    Name,
    /// A name in it is longer than names can be.
    NameTooLong,
    /// It walks more names than one walk may.
    TooManyNames,
}

/// What a message consists of.
pub(super) trait Wire<'a>: Sized {
    fn take(input: &mut Input<'a>) -> Result<Self, Refusal>;
    fn put(&self, out: &mut Vec<u8>);
}

/// What is left of a message.
#[derive(Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Refusal::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Refusal::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn end(&self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::Malformed) }
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Wire<'_> for $type {
            fn take(input: &mut Input<'_>) -> Result<Self, Refusal> {
                input.array().map(Self::from_le_bytes)
            }

            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

impl Wire<'_> for Fid {
    fn take(input: &mut Input<'_>) -> Result<Self, Refusal> {
        u32::take(input).map(Self)
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
}

impl Wire<'_> for Tag {
    fn take(input: &mut Input<'_>) -> Result<Self, Refusal> {
        u16::take(input).map(Self)
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
}

/// A string: any bytes, at most 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Wire<'a> for Bytes<'a> {
    fn take(input: &mut Input<'a>) -> Result<Self, Refusal> {
        let length = u16::take(input)?;
        input.bytes(length.into()).map(Self)
    }

    fn put(&self, out: &mut Vec<u8>) {
        // What is longer cannot be said; cut, the message stays a message.
        let length = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        length.put(out);
        out.extend_from_slice(&self.0[..length.into()]);
    }
}

/// The data of a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a>(pub &'a [u8]);

impl<'a> Wire<'a> for Data<'a> {
    fn take(input: &mut Input<'a>) -> Result<Self, Refusal> {
        let length = u32::take(input)?;
        let length = usize::try_from(length).map_err(|_| Refusal::Malformed)?;
        input.bytes(length).map(Self)
    }

    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX).put(out);
        out.extend_from_slice(self.0);
    }
}
