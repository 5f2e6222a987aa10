//! Names of directory entries, checked once: what is a [`Name`] can be given to the kernel beside a directory's descriptor.

use super::wire::{Bytes, Input, Refusal, Wire};

/// Longest name that Linux has (`NAME_MAX`), in bytes.
pub const MAX_NAME: usize = 255;

/// Most names of one walk (`P9_MAXWELEM`).
pub const MAX_NAMES: usize = 16;

/// The name of one entry: neither empty nor `.` nor `..`, without `/` and NUL, at most [`MAX_NAME`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Refusal> {
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            Err(Refusal::Name)
        } else if bytes.len() > MAX_NAME {
            Err(Refusal::NameTooLong)
        } else {
            Ok(Self(bytes))
        }
    }

    /// The bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Wire<'a> for Name<'a> {
    fn take(input: &mut Input<'a>) -> Result<Self, Refusal> {
        Self::new(Bytes::take(input)?.0)
    }

    fn put(&self, out: &mut Vec<u8>) {
        Bytes(self.0).put(out);
    }
}

/// The names of a walk: at most [`MAX_NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    names: [Name<'a>; MAX_NAMES],
    count: usize,
}

impl<'a> Names<'a> {
    /// No names: the walk makes a second fid for the same file.
    pub const EMPTY: Self = Self { names: [Name(b""); MAX_NAMES], count: 0 };

    /// Adds one.
    ///
    /// # Errors
    /// When there are [`MAX_NAMES`].
    pub fn push(&mut self, name: Name<'a>) -> Result<(), Refusal> {
        *self.names.get_mut(self.count).ok_or(Refusal::TooManyNames)? = name;
        self.count += 1;
        Ok(())
    }

    /// The names, in order.
    pub fn as_slice(&self) -> &[Name<'a>] {
        &self.names[..self.count]
    }
}

impl<'a> Wire<'a> for Names<'a> {
    fn take(input: &mut Input<'a>) -> Result<Self, Refusal> {
        let mut names = Self::EMPTY;
        for _ in 0..u16::take(input)? {
            names.push(Name::take(input)?)?;
        }
        Ok(names)
    }

    fn put(&self, out: &mut Vec<u8>) {
        u16::try_from(self.count).unwrap_or(u16::MAX).put(out);
        for name in self.as_slice() {
            name.put(out);
        }
    }
}
