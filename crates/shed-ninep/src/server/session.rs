//! One client's session: what was agreed on, its fids, and which function answers which request.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::{fs::fstatfs, io::Errno};

use super::{
    Options, Root,
    fids::{Fids, State},
    frames::Buffer,
    qids::QidMap,
};
use crate::proto::{Bytes, Fid, Qid, Refusal, Reply, Request, Statfs, Tag, UNKNOWN_VERSION, VERSION, bits};

/// Largest message before a version is agreed on: a version is all that is taken.
const FIRST_MESSAGE: u32 = 8192;

/// Type of the file system, as the guest's programs know it (`V9FS_MAGIC` of linux/magic.h).
const V9FS_MAGIC: u32 = 0x0102_1997;

/// An answer that is being made: its message, and data that follows it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) head: Vec<u8>,
    pub(super) buffer: Buffer,
    /// Bytes of the buffer that belong to the message.
    pub(super) data: usize,
    /// Room for what the kernel says of a directory; it has no content.
    pub(super) listing: Vec<u8>,
}

impl Answer {
    pub(super) fn clear(&mut self) {
        self.head.clear();
        self.data = 0;
    }

    pub(super) fn data(&self) -> &[u8] {
        self.buffer.first(self.data)
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) root: Root,
    pub(super) options: Options,
    pub(super) fids: Fids,
    pub(super) qids: QidMap,
    /// Largest message; 0 as long as no version is agreed on.
    size: AtomicU32,
}

impl Session {
    pub(super) fn new(root: Root, options: Options) -> Self {
        let qids = QidMap::new(root.place().device, !options.uncached);
        Self { root, fids: Fids::new(options.max_fids), qids, options, size: AtomicU32::new(0) }
    }

    /// Largest message that may come now.
    pub(super) fn limit(&self) -> u32 {
        match self.size() {
            0 => FIRST_MESSAGE,
            size => size,
        }
    }

    pub(super) fn size(&self) -> u32 {
        self.size.load(Ordering::Acquire)
    }

    /// Begins anew: all fids are gone. Nothing else is being answered.
    pub(super) fn version(&self, size: u32, version: &[u8]) -> Reply<'static> {
        self.fids.clear();
        self.size.store(0, Ordering::Release);
        let most = self.options.max_message.clamp(Options::MIN_MESSAGE, Options::MAX_MESSAGE);
        if version != VERSION {
            return Reply::Version { size: size.min(most), version: Bytes(UNKNOWN_VERSION) };
        }
        if size < Options::MIN_MESSAGE {
            return error(Errno::INVAL);
        }
        let size = size.min(most);
        self.size.store(size, Ordering::Release);
        Reply::Version { size, version: Bytes(VERSION) }
    }

    /// Answers a request; what is none is answered with an error.
    pub(super) fn answer(&self, tag: Tag, request: Result<Request<'_>, Refusal>, answer: &mut Answer) {
        let done = match request {
            Ok(request) if self.size() > 0 => self.perform(tag, request, answer),
            Ok(_) => Err(Errno::PROTO),
            Err(Refusal::UnknownType(_)) => Err(Errno::OPNOTSUPP),
            Err(Refusal::NameTooLong) => Err(Errno::NAMETOOLONG),
            Err(Refusal::Malformed | Refusal::Name | Refusal::TooManyNames) => Err(Errno::INVAL),
        };
        match done {
            Ok(Some(reply)) => reply.put(tag, &mut answer.head),
            // It is there already.
            Ok(None) => {}
            Err(errno) => {
                answer.clear();
                error(errno).put(tag, &mut answer.head);
            }
        }
    }

    fn perform(
        &self,
        tag: Tag,
        request: Request<'_>,
        answer: &mut Answer,
    ) -> Result<Option<Reply<'static>>, Errno> {
        let reply = match request {
            Request::Statfs { fid } => self.statfs(fid)?,
            Request::Open { fid, flags } => {
                let (qid, unit) = self.open(fid, flags)?;
                Reply::Open { qid, unit }
            }
            Request::Create { fid, name, flags, mode, gid: _ } => {
                let (qid, unit) = self.create(fid, name, flags, mode)?;
                Reply::Create { qid, unit }
            }
            Request::Symlink { directory, name, target, gid: _ } => {
                Reply::Symlink { qid: self.symlink(directory, name, target.0)? }
            }
            Request::MakeNode { directory, name, mode, major: _, minor: _, gid: _ } => {
                Reply::MakeNode { qid: self.make_node(directory, name, mode)? }
            }
            Request::Rename { fid, directory, name } => {
                self.rename(fid, directory, name)?;
                Reply::Rename {}
            }
            Request::ReadLink { fid } => {
                self.read_link(fid, tag, answer)?;
                return Ok(None);
            }
            Request::GetAttributes { fid, mask: _ } => {
                Reply::GetAttributes { attributes: self.attributes(fid)? }
            }
            Request::SetAttributes { fid, attributes } => {
                self.set_attributes(fid, &attributes)?;
                Reply::SetAttributes {}
            }
            Request::WalkAttribute { .. }
            | Request::CreateAttribute { .. }
            | Request::Authenticate { .. } => {
                return Err(Errno::OPNOTSUPP);
            }
            Request::ReadDirectory { fid, offset, count } => {
                self.read_directory(fid, offset, count, tag, answer)?;
                return Ok(None);
            }
            Request::Sync { fid, data_only } => {
                self.sync(fid, data_only != 0)?;
                Reply::Sync {}
            }
            // The guest's kernel has decided between its own processes before it asks.
            Request::Lock { fid, .. } => {
                self.fids.node(fid)?;
                Reply::Lock { status: bits::LOCK_GRANTED }
            }
            Request::GetLock { fid, kind: _, begin, length, process, client } => {
                self.fids.node(fid)?;
                Reply::GetLock { kind: bits::UNLOCKED, begin, length, process, client }
                    .put(tag, &mut answer.head);
                return Ok(None);
            }
            Request::Link { directory, fid, name } => {
                self.link(directory, fid, name)?;
                Reply::Link {}
            }
            Request::MakeDirectory { directory, name, mode, gid: _ } => {
                Reply::MakeDirectory { qid: self.make_directory(directory, name, mode)? }
            }
            Request::RenameAt { from, name, to, new } => {
                self.rename_at(from, name, to, new)?;
                Reply::RenameAt {}
            }
            Request::Unlink { directory, name, flags } => {
                self.unlink(directory, name, flags)?;
                Reply::Unlink {}
            }
            Request::Attach { fid, authentication, .. } => {
                Reply::Attach { qid: self.attach(fid, authentication)? }
            }
            Request::Walk { fid, new, names } => Reply::Walk { qids: self.walk(fid, new, &names)? },
            Request::Read { fid, offset, count } => {
                self.read(fid, offset, count, tag, answer)?;
                return Ok(None);
            }
            Request::Write { fid, offset, data } => Reply::Write { count: self.write(fid, offset, data.0)? },
            Request::Clunk { fid } => {
                self.fids.remove(fid)?;
                Reply::Clunk {}
            }
            Request::Remove { fid } => {
                self.remove(fid)?;
                Reply::Remove {}
            }
            // The threads answer these where the order of messages is known.
            Request::Version { .. } | Request::Flush { .. } => return Err(Errno::INVAL),
        };
        Ok(Some(reply))
    }

    fn attach(&self, fid: Fid, authentication: Fid) -> Result<Qid, Errno> {
        if authentication != Fid::NONE {
            return Err(Errno::OPNOTSUPP);
        }
        let node = self.root.node();
        let qid = self.qids.qid(&super::root::look(node.fd())?);
        self.fids.insert(fid, State::closed(node))?;
        Ok(qid)
    }

    fn statfs(&self, fid: Fid) -> Result<Reply<'static>, Errno> {
        let node = self.fids.node(fid)?;
        let stat = fstatfs(&*node.fd)?;
        let statfs = Statfs {
            kind: V9FS_MAGIC,
            block_size: u32::try_from(stat.f_bsize).unwrap_or(4096),
            blocks: stat.f_blocks,
            free: stat.f_bfree,
            available: stat.f_bavail,
            files: stat.f_files,
            free_files: stat.f_ffree,
            id: 0,
            longest_name: u32::try_from(crate::proto::MAX_NAME).unwrap_or(u32::MAX),
        };
        Ok(Reply::Statfs { statfs })
    }

    /// For whatever changes something.
    pub(super) fn may_write(&self) -> Result<(), Errno> {
        if self.options.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }
}

fn error(errno: Errno) -> Reply<'static> {
    Reply::Error { number: errno.raw_os_error().unsigned_abs() }
}
