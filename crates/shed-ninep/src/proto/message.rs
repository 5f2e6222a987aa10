//! All requests and replies, as one table each: number, name, content.

use super::{
    finish, header,
    name::{Name, Names},
    qid::{Qid, Qids},
    start,
    wire::{Bytes, Data, Fid, Input, Refusal, Tag, Wire},
};

macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$note:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$note])* pub $field: $type),* }

        impl Wire<'_> for $name {
            fn take(input: &mut Input<'_>) -> Result<Self, Refusal> {
                Ok(Self { $($field: Wire::take(input)?),* })
            }

            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
        }
    };
}

macro_rules! messages {
    ($(#[$meta:meta])* $name:ident<'a> {
        $($(#[$note:meta])* $number:literal $variant:ident { $($field:ident: $type:ty),* $(,)? })*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name<'a> { $($(#[$note])* $variant { $($field: $type),* }),* }

        impl<'a> $name<'a> {
            /// Reads a message, without the four bytes of its size.
            ///
            /// # Errors
            /// When it is none of these. Its tag, when it has one, is [`header`]'s.
            pub fn parse(message: &'a [u8]) -> Result<(Tag, Self), Refusal> {
                let (kind, tag) = header(message).ok_or(Refusal::Malformed)?;
                let mut input = Input::new(message.get(3..).unwrap_or_default());
                let parsed = match kind {
                    $($number => Self::$variant { $($field: Wire::take(&mut input)?),* },)*
                    other => return Err(Refusal::UnknownType(other)),
                };
                input.end()?;
                Ok((tag, parsed))
            }

            /// Appends the message, with its size.
            pub fn put(&self, tag: Tag, out: &mut Vec<u8>) {
                let begin = out.len();
                match self {
                    $(Self::$variant { $($field),* } => {
                        start(out, $number, tag);
                        $($field.put(out);)*
                    })*
                }
                finish(out, begin);
            }
        }
    };
}

record! {
    /// What setattr changes: `valid` says which of it counts (`SET_*` of [`bits`](super::bits)).
    SetAttributes {
        valid: u32,
        mode: u32,
        uid: u32,
        gid: u32,
        size: u64,
        /// Seconds since 1970, in two's complement.
        atime_seconds: u64,
        atime_nanoseconds: u64,
        mtime_seconds: u64,
        mtime_nanoseconds: u64,
    }
}

record! {
    /// What getattr returns: `valid` says which of it counts (`GOT_*` of [`bits`](super::bits)).
    Attributes {
        valid: u64,
        qid: Qid,
        mode: u32,
        uid: u32,
        gid: u32,
        links: u64,
        device: u64,
        /// Bytes.
        size: u64,
        /// Bytes that are best read at once.
        block_size: u64,
        /// In units of 512 bytes.
        blocks: u64,
        atime_seconds: u64,
        atime_nanoseconds: u64,
        mtime_seconds: u64,
        mtime_nanoseconds: u64,
        ctime_seconds: u64,
        ctime_nanoseconds: u64,
        birth_seconds: u64,
        birth_nanoseconds: u64,
        generation: u64,
        data_version: u64,
    }
}

record! {
    /// What statfs returns (statfs(2)).
    Statfs {
        kind: u32,
        block_size: u32,
        blocks: u64,
        free: u64,
        available: u64,
        files: u64,
        free_files: u64,
        id: u64,
        longest_name: u32,
    }
}

messages! {
    /// What a client asks.
    #[expect(clippy::large_enum_variant, reason = "one exists at a time; the names of a walk need no allocation so")]
    Request<'a> {
        8 Statfs { fid: Fid }
        12 Open { fid: Fid, flags: u32 }
        14 Create { fid: Fid, name: Name<'a>, flags: u32, mode: u32, gid: u32 }
        16 Symlink { directory: Fid, name: Name<'a>, target: Bytes<'a>, gid: u32 }
        18 MakeNode { directory: Fid, name: Name<'a>, mode: u32, major: u32, minor: u32, gid: u32 }
        /// Gives the fid's own name up for another. Kernels use it with servers that lack `RenameAt`.
        20 Rename { fid: Fid, directory: Fid, name: Name<'a> }
        22 ReadLink { fid: Fid }
        24 GetAttributes { fid: Fid, mask: u64 }
        26 SetAttributes { fid: Fid, attributes: SetAttributes }
        30 WalkAttribute { fid: Fid, new: Fid, name: Bytes<'a> }
        32 CreateAttribute { fid: Fid, name: Bytes<'a>, size: u64, flags: u32 }
        40 ReadDirectory { fid: Fid, offset: u64, count: u32 }
        50 Sync { fid: Fid, data_only: u32 }
        52 Lock { fid: Fid, kind: u8, flags: u32, begin: u64, length: u64, process: u32, client: Bytes<'a> }
        54 GetLock { fid: Fid, kind: u8, begin: u64, length: u64, process: u32, client: Bytes<'a> }
        70 Link { directory: Fid, fid: Fid, name: Name<'a> }
        72 MakeDirectory { directory: Fid, name: Name<'a>, mode: u32, gid: u32 }
        74 RenameAt { from: Fid, name: Name<'a>, to: Fid, new: Name<'a> }
        76 Unlink { directory: Fid, name: Name<'a>, flags: u32 }
        100 Version { size: u32, version: Bytes<'a> }
        102 Authenticate { fid: Fid, user: Bytes<'a>, tree: Bytes<'a>, uid: u32 }
        104 Attach { fid: Fid, authentication: Fid, user: Bytes<'a>, tree: Bytes<'a>, uid: u32 }
        108 Flush { tag: Tag }
        110 Walk { fid: Fid, new: Fid, names: Names<'a> }
        116 Read { fid: Fid, offset: u64, count: u32 }
        118 Write { fid: Fid, offset: u64, data: Data<'a> }
        120 Clunk { fid: Fid }
        122 Remove { fid: Fid }
    }
}

messages! {
    /// What the server answers.
    Reply<'a> {
        /// The number of an error, as Linux has it on most processors (asm-generic/errno.h).
        7 Error { number: u32 }
        9 Statfs { statfs: Statfs }
        13 Open { qid: Qid, unit: u32 }
        15 Create { qid: Qid, unit: u32 }
        17 Symlink { qid: Qid }
        19 MakeNode { qid: Qid }
        21 Rename {}
        23 ReadLink { target: Bytes<'a> }
        25 GetAttributes { attributes: Attributes }
        27 SetAttributes {}
        31 WalkAttribute { size: u64 }
        33 CreateAttribute {}
        41 ReadDirectory { entries: Data<'a> }
        51 Sync {}
        53 Lock { status: u8 }
        55 GetLock { kind: u8, begin: u64, length: u64, process: u32, client: Bytes<'a> }
        71 Link {}
        73 MakeDirectory { qid: Qid }
        75 RenameAt {}
        77 Unlink {}
        101 Version { size: u32, version: Bytes<'a> }
        103 Authenticate { qid: Qid }
        105 Attach { qid: Qid }
        109 Flush {}
        111 Walk { qids: Qids }
        117 Read { data: Data<'a> }
        119 Write { count: u32 }
        121 Clunk {}
        123 Remove {}
    }
}

/// One entry in the data of a directory's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub qid: Qid,
    /// Where the next read goes on.
    pub offset: u64,
    /// `DT_*` of readdir(3).
    pub kind: u8,
    pub name: Bytes<'a>,
}

impl<'a> Entry<'a> {
    /// Bytes of an entry beside its name.
    pub const BESIDE_NAME: usize = 13 + 8 + 1 + 2;

    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.qid.put(out);
        self.offset.put(out);
        self.kind.put(out);
        self.name.put(out);
    }

    /// Reads the first entry, and returns what is behind it.
    ///
    /// # Errors
    /// When there is no whole one.
    pub fn parse(data: &'a [u8]) -> Result<(Self, &'a [u8]), Refusal> {
        let mut input = Input::new(data);
        let entry = Self {
            qid: Wire::take(&mut input)?,
            offset: Wire::take(&mut input)?,
            kind: Wire::take(&mut input)?,
            name: Wire::take(&mut input)?,
        };
        let length = Self::BESIDE_NAME + entry.name.0.len();
        Ok((entry, data.get(length..).unwrap_or_default()))
    }
}
