//! Bits and numbers in messages, as include/net/9p/9p.h has them: some are Linux's own on most processors, none has to be.

/// Types of qids (`P9_QTDIR`, `P9_QTSYMLINK`).
pub const QID_DIRECTORY: u8 = 0x80;
pub const QID_LINK: u8 = 0x02;

/// Flags of an open and a create (`P9_DOTL_*`).
pub const OPEN_ACCESS: u32 = 0o3;
pub const OPEN_READ: u32 = 0o0;
pub const OPEN_WRITE: u32 = 0o1;
pub const OPEN_BOTH: u32 = 0o2;
pub const OPEN_CREATE: u32 = 0o100;
pub const OPEN_EXCLUSIVE: u32 = 0o200;
pub const OPEN_TRUNCATE: u32 = 0o1000;
pub const OPEN_APPEND: u32 = 0o2000;
pub const OPEN_DATA_SYNC: u32 = 0o10000;
pub const OPEN_DIRECTORY: u32 = 0o200_000;
pub const OPEN_SYNC: u32 = 0o4_000_000;

/// The one flag of an unlink (`P9_DOTL_AT_REMOVEDIR`).
pub const REMOVE_DIRECTORY: u32 = 0x200;

/// What an answer to getattr holds (`P9_STATS_*`): all up to the blocks, and the time of birth.
pub const GOT_BASIC: u64 = 0x7ff;
pub const GOT_BIRTH: u64 = 0x800;

/// What setattr changes (`P9_ATTR_*`). That of ctime (0x40) asks for what the kernel does with every change.
pub const SET_MODE: u32 = 0x1;
pub const SET_UID: u32 = 0x2;
pub const SET_GID: u32 = 0x4;
pub const SET_SIZE: u32 = 0x8;
pub const SET_ATIME: u32 = 0x10;
pub const SET_MTIME: u32 = 0x20;
pub const SET_CTIME: u32 = 0x40;
/// The time is the one in the message; without it, it is now.
pub const SET_ATIME_GIVEN: u32 = 0x80;
pub const SET_MTIME_GIVEN: u32 = 0x100;

/// What a lock's answer says (`P9_LOCK_SUCCESS`), and the type of a lock that nobody holds (`P9_LOCK_TYPE_UNLCK`).
pub const LOCK_GRANTED: u8 = 0;
pub const UNLOCKED: u8 = 2;

/// Types of files in modes (`S_IFMT` and its values, inode(7)).
pub const MODE_TYPE: u32 = 0o170_000;
pub const MODE_FIFO: u32 = 0o010_000;
pub const MODE_FILE: u32 = 0o100_000;

/// setuid and setgid.
pub const MODE_SETUID: u32 = 0o4000;
pub const MODE_SETGID: u32 = 0o2000;
