//! One directory of the host, served to a guest as 9P2000.L over one byte stream.
//!
//! Guests without virtiofs mount their shares with this: the process that `shed-server` starts for a share connects to a
//! port of the guest, calls [`serve`] with that stream and the [`Root`], and ends when the stream ends. The guest's kernel
//! is the only client that matters (fs/9p with `trans=fd,version=9p2000.L`, `cache=none` or `cache=mmap`), and it is not
//! trusted: whatever comes is a message, an error, or the end of the stream.
//!
//! - [`proto`] turns bytes into messages and back, without I/O.
//! - [`serve`] answers them: some threads that take turns at the stream, so that a slow operation holds nothing up.
//!
//! # What the guest can reach
//!
//! What is in the directory, and what is mounted there on the host. A fid is a descriptor, never a path; each name is opened
//! below the descriptor of its directory with openat2(2) and is never a link that is followed, so neither links nor `..` nor
//! renames meanwhile lead out. Links are the guest's to resolve. Two things are as on any file system: a file with a second
//! name elsewhere on the host (a hard link) is an ordinary file here, and a directory that the *host* moves away goes on being
//! reached by the guest that has it open.
//!
//! # Owners
//!
//! The directory's owner and group appear as [`GUEST_ID`], everybody else as [`NOBODY`]. A server that is root works as the
//! directory's owner, thread by thread, so the kernel decides what is allowed and what the guest makes belongs to that owner
//! from its first moment. A chown of what the owner has changes nothing and succeeds; of other files it is refused.
//!
//! # What is refused
//!
//! - with `read_only`, whatever changes anything;
//! - setuid and setgid bits (EPERM), devices and sockets (EPERM), extended attributes (EOPNOTSUPP), authentication;
//! - opening anything but files and directories: FIFOs, sockets and devices of the host are looked at, never opened;
//! - names that are empty, `.`, `..`, longer than 255 bytes, or have `/` or NUL in them;
//! - more fids than [`Options::max_fids`] (ENFILE), messages longer than agreed on (the stream ends).
//!
//! # What a caller sees to
//!
//! Each fid that the guest holds is a descriptor, of an open file often two: raise the limit of the process before. /proc must
//! be mounted when [`Root::open`] is called. As root of a user namespace that holds the owner alone the server lets the guest's
//! root read and write whatever belongs to the owner, whatever its mode; as the owner itself it is bound by the modes.
//!
//! # What Linux does not ask for
//!
//! A guest's kernel sets times in whole seconds here, refuses renames with flags (EINVAL) and files without a name
//! (EOPNOTSUPP), and reserves no space. With `cache=mmap` it keeps `O_APPEND` to itself (6.12) and writes of several processes
//! run side by side, so that those who append to one file at once lose lines unless they lock it; with `cache=none` the server
//! appends.
//!
//! # Locks
//!
//! Locks are the guest's own: its kernel decides between its processes before it asks, and the server says yes. They hold
//! neither on the host nor in other guests, as with virtiofs.

pub mod proto;
#[cfg(target_os = "linux")]
mod server;

#[cfg(target_os = "linux")]
pub use server::{GUEST_ID, NOBODY, Options, Root, serve};
