//! A 9P client over a socket pair, against a real server: one method an operation, and raw bytes for what no client says.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread::{self, JoinHandle},
    time::Duration,
};

use shed_ninep::{
    Options, Root,
    proto::{
        Attributes, Bytes, Data, Entry, Fid, Name, Names, Qid, Reply, Request, SetAttributes, Statfs, Tag,
        VERSION, bits,
    },
    serve,
};

/// Longest wait for an answer; they come within milliseconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// The fid of the root after [`Client::start`].
pub(crate) const ROOT: u32 = 0;

/// The number of an error.
pub(crate) type Answered<T> = Result<T, i32>;

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    server: Option<JoinHandle<io::Result<()>>>,
    next: u32,
    pub(crate) size: u32,
}

macro_rules! answered {
    ($self:ident, $request:expr, $pattern:pat => $value:expr) => {{
        let message = $self.ask(&$request);
        match Reply::parse(&message).expect("a reply").1 {
            $pattern => Ok($value),
            Reply::Error { number } => Err(i32::try_from(number).unwrap()),
            other => panic!("{:?} was answered with {other:?}", $request),
        }
    }};
}

fn name(name: &str) -> Name<'_> {
    Name::new(name.as_bytes()).expect("a name")
}

impl Client {
    /// A server for the directory, with a version and [`ROOT`] attached.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, Options::default())
    }

    pub(crate) fn start_with(directory: &Path, options: Options) -> Self {
        let mut client = Self::connect(directory, options);
        assert_eq!(client.version(1 << 20), Ok(1 << 20));
        client.attach(ROOT).unwrap();
        client
    }

    /// Without any message yet.
    pub(crate) fn connect(directory: &Path, options: Options) -> Self {
        let root = Root::open(directory).unwrap();
        let (stream, other) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let server = thread::spawn(move || {
            let writer = other.try_clone()?;
            serve(other, writer, root, options)
        });
        Self { stream, server: Some(server), next: 1000, size: 8192 }
    }

    /// Closes the stream, and returns what the server says of its end.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        self.server.take().unwrap().join().unwrap()
    }

    /// Waits for the server to end by itself.
    pub(crate) fn ended(mut self) -> io::Result<()> {
        self.server.take().unwrap().join().unwrap()
    }

    pub(crate) fn fid(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    pub(crate) fn send(&mut self, tag: u16, request: &Request<'_>) {
        let mut out = Vec::new();
        request.put(Tag(tag), &mut out);
        self.stream.write_all(&out).unwrap();
    }

    /// The next message, without its size.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut size = [0; 4];
        match self.stream.read_exact(&mut size) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no answer came"),
            Err(_) => return None,
        }
        let size = usize::try_from(u32::from_le_bytes(size)).unwrap();
        assert!((7..=self.size as usize).contains(&size), "a message of {size} bytes");
        let mut message = vec![0; size - 4];
        self.stream.read_exact(&mut message).unwrap();
        Some(message)
    }

    pub(crate) fn ask(&mut self, request: &Request<'_>) -> Vec<u8> {
        self.send(1, request);
        let message = self.receive().expect("an answer");
        assert_eq!(Reply::parse(&message).expect("a reply").0, Tag(1));
        message
    }

    /// Sends the body of a request of this type, and returns the error that comes.
    pub(crate) fn ask_raw(&mut self, kind: u8, body: &[u8]) -> Answered<()> {
        let mut message = u32::try_from(body.len() + 7).unwrap().to_le_bytes().to_vec();
        message.extend_from_slice(&[kind, 1, 0]);
        message.extend_from_slice(body);
        self.stream.write_all(&message).unwrap();
        let message = self.receive().expect("an answer");
        match Reply::parse(&message).expect("a reply").1 {
            Reply::Error { number } => Err(i32::try_from(number).unwrap()),
            _ => Ok(()),
        }
    }

    pub(crate) fn version(&mut self, size: u32) -> Answered<u32> {
        let agreed = answered!(self, Request::Version { size, version: Bytes(VERSION) },
            Reply::Version { size, version: Bytes(VERSION) } => size)?;
        self.size = agreed;
        Ok(agreed)
    }

    pub(crate) fn attach(&mut self, fid: u32) -> Answered<Qid> {
        let request = Request::Attach {
            fid: Fid(fid),
            authentication: Fid::NONE,
            user: Bytes(b"shed"),
            tree: Bytes(b""),
            uid: 1000,
        };
        answered!(self, request, Reply::Attach { qid } => qid)
    }

    pub(crate) fn walk_to(&mut self, fid: u32, new: u32, path: &[&str]) -> Answered<Vec<Qid>> {
        let mut names = Names::EMPTY;
        for part in path {
            names.push(name(part)).unwrap();
        }
        answered!(self, Request::Walk { fid: Fid(fid), new: Fid(new), names }, Reply::Walk { qids } => qids.as_slice().to_vec())
    }

    /// A new fid for what a path below another one leads to.
    pub(crate) fn walk(&mut self, fid: u32, path: &str) -> Answered<u32> {
        let new = self.fid();
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let found = self.walk_to(fid, new, &parts)?;
        if found.len() == parts.len() { Ok(new) } else { Err(2) }
    }

    pub(crate) fn open(&mut self, fid: u32, flags: u32) -> Answered<Qid> {
        answered!(self, Request::Open { fid: Fid(fid), flags }, Reply::Open { qid, unit: _ } => qid)
    }

    /// A new open fid.
    pub(crate) fn open_at(&mut self, path: &str, flags: u32) -> Answered<u32> {
        let fid = self.walk(ROOT, path)?;
        match self.open(fid, flags) {
            Ok(_) => Ok(fid),
            Err(error) => {
                self.clunk(fid).unwrap();
                Err(error)
            }
        }
    }

    /// A new open fid of a new file in a directory.
    pub(crate) fn create(&mut self, directory: u32, new: &str, flags: u32, mode: u32) -> Answered<u32> {
        let fid = self.walk(directory, "")?;
        let request = Request::Create {
            fid: Fid(fid),
            name: name(new),
            flags: flags | bits::OPEN_CREATE,
            mode,
            gid: 1000,
        };
        let created = answered!(self, request, Reply::Create { .. } => ());
        match created {
            Ok(()) => Ok(fid),
            Err(error) => {
                self.clunk(fid).unwrap();
                Err(error)
            }
        }
    }

    pub(crate) fn read(&mut self, fid: u32, offset: u64, count: u32) -> Answered<Vec<u8>> {
        answered!(self, Request::Read { fid: Fid(fid), offset, count }, Reply::Read { data } => data.0.to_vec())
    }

    pub(crate) fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Answered<u32> {
        answered!(self, Request::Write { fid: Fid(fid), offset, data: Data(data) }, Reply::Write { count } => count)
    }

    pub(crate) fn clunk(&mut self, fid: u32) -> Answered<()> {
        answered!(self, Request::Clunk { fid: Fid(fid) }, Reply::Clunk {} => ())
    }

    pub(crate) fn remove(&mut self, fid: u32) -> Answered<()> {
        answered!(self, Request::Remove { fid: Fid(fid) }, Reply::Remove {} => ())
    }

    pub(crate) fn attributes(&mut self, fid: u32) -> Answered<Attributes> {
        answered!(self, Request::GetAttributes { fid: Fid(fid), mask: u64::MAX },
            Reply::GetAttributes { attributes } => attributes)
    }

    pub(crate) fn set(&mut self, fid: u32, attributes: SetAttributes) -> Answered<()> {
        answered!(self, Request::SetAttributes { fid: Fid(fid), attributes }, Reply::SetAttributes {} => ())
    }

    pub(crate) fn set_size(&mut self, fid: u32, size: u64) -> Answered<()> {
        self.set(fid, SetAttributes { valid: bits::SET_SIZE, size, ..Default::default() })
    }

    pub(crate) fn set_mode(&mut self, fid: u32, mode: u32) -> Answered<()> {
        self.set(fid, SetAttributes { valid: bits::SET_MODE, mode, ..Default::default() })
    }

    pub(crate) fn set_owner(&mut self, fid: u32, uid: u32) -> Answered<()> {
        self.set(
            fid,
            SetAttributes { valid: bits::SET_UID | bits::SET_GID, uid, gid: uid, ..Default::default() },
        )
    }

    pub(crate) fn mkdir(&mut self, directory: u32, new: &str, mode: u32) -> Answered<Qid> {
        answered!(self, Request::MakeDirectory { directory: Fid(directory), name: name(new), mode, gid: 1000 },
            Reply::MakeDirectory { qid } => qid)
    }

    pub(crate) fn mknod(&mut self, directory: u32, new: &str, mode: u32) -> Answered<Qid> {
        let request = Request::MakeNode {
            directory: Fid(directory),
            name: name(new),
            mode,
            major: 1,
            minor: 3,
            gid: 1000,
        };
        answered!(self, request, Reply::MakeNode { qid } => qid)
    }

    pub(crate) fn symlink(&mut self, directory: u32, new: &str, target: &str) -> Answered<Qid> {
        let target = Bytes(target.as_bytes());
        answered!(self, Request::Symlink { directory: Fid(directory), name: name(new), target, gid: 1000 },
            Reply::Symlink { qid } => qid)
    }

    pub(crate) fn read_link(&mut self, fid: u32) -> Answered<Vec<u8>> {
        answered!(self, Request::ReadLink { fid: Fid(fid) }, Reply::ReadLink { target } => target.0.to_vec())
    }

    pub(crate) fn link(&mut self, directory: u32, fid: u32, new: &str) -> Answered<()> {
        answered!(self, Request::Link { directory: Fid(directory), fid: Fid(fid), name: name(new) }, Reply::Link {} => ())
    }

    pub(crate) fn rename(&mut self, fid: u32, directory: u32, new: &str) -> Answered<()> {
        answered!(self, Request::Rename { fid: Fid(fid), directory: Fid(directory), name: name(new) }, Reply::Rename {} => ())
    }

    pub(crate) fn rename_at(&mut self, from: u32, old: &str, to: u32, new: &str) -> Answered<()> {
        answered!(self, Request::RenameAt { from: Fid(from), name: name(old), to: Fid(to), new: name(new) },
            Reply::RenameAt {} => ())
    }

    pub(crate) fn unlink(&mut self, directory: u32, old: &str, flags: u32) -> Answered<()> {
        answered!(self, Request::Unlink { directory: Fid(directory), name: name(old), flags }, Reply::Unlink {} => ())
    }

    pub(crate) fn sync(&mut self, fid: u32, data_only: bool) -> Answered<()> {
        answered!(self, Request::Sync { fid: Fid(fid), data_only: data_only.into() }, Reply::Sync {} => ())
    }

    pub(crate) fn statfs(&mut self, fid: u32) -> Answered<Statfs> {
        answered!(self, Request::Statfs { fid: Fid(fid) }, Reply::Statfs { statfs } => statfs)
    }

    pub(crate) fn lock(&mut self, fid: u32) -> Answered<u8> {
        let request = Request::Lock {
            fid: Fid(fid),
            kind: 1,
            flags: 1,
            begin: 0,
            length: 0,
            process: 7,
            client: Bytes(b"me"),
        };
        answered!(self, request, Reply::Lock { status } => status)
    }

    pub(crate) fn get_lock(&mut self, fid: u32) -> Answered<(u8, u64, Vec<u8>)> {
        let request = Request::GetLock {
            fid: Fid(fid),
            kind: 1,
            begin: 5,
            length: 6,
            process: 7,
            client: Bytes(b"me"),
        };
        answered!(self, request, Reply::GetLock { kind, begin, client, .. } => (kind, begin, client.0.to_vec()))
    }

    pub(crate) fn walk_attribute(&mut self, fid: u32) -> Answered<u64> {
        let new = Fid(self.fid());
        answered!(self, Request::WalkAttribute { fid: Fid(fid), new, name: Bytes(b"security.capability") },
            Reply::WalkAttribute { size } => size)
    }

    pub(crate) fn create_attribute(&mut self, fid: u32) -> Answered<()> {
        answered!(self, Request::CreateAttribute { fid: Fid(fid), name: Bytes(b"user.x"), size: 3, flags: 0 },
            Reply::CreateAttribute {} => ())
    }

    pub(crate) fn authenticate(&mut self) -> Answered<Qid> {
        answered!(self, Request::Authenticate { fid: Fid(9), user: Bytes(b"root"), tree: Bytes(b""), uid: 0 },
            Reply::Authenticate { qid } => qid)
    }

    /// Some entries: name, type, qid, and where the next ones are.
    pub(crate) fn list_from(
        &mut self,
        fid: u32,
        offset: u64,
        count: u32,
    ) -> Answered<Vec<(String, u8, Qid, u64)>> {
        answered!(self, Request::ReadDirectory { fid: Fid(fid), offset, count }, Reply::ReadDirectory { entries } => {
            let mut rest = entries.0;
            let mut all = Vec::new();
            while !rest.is_empty() {
                let (entry, behind) = Entry::parse(rest).unwrap();
                all.push((String::from_utf8_lossy(entry.name.0).into_owned(), entry.kind, entry.qid, entry.offset));
                rest = behind;
            }
            all
        })
    }

    /// All names of a directory but `.` and `..`, sorted.
    pub(crate) fn list(&mut self, path: &str) -> Vec<String> {
        let fid = self.open_at(path, 0).unwrap();
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let entries = self.list_from(fid, offset, 4096).unwrap();
            let Some(last) = entries.last() else { break };
            offset = last.3;
            names.extend(entries.into_iter().map(|entry| entry.0).filter(|name| name != "." && name != ".."));
        }
        self.clunk(fid).unwrap();
        names.sort_unstable();
        names
    }

    /// Writes a file whole, as a program does.
    pub(crate) fn put(&mut self, path: &str, content: &[u8]) {
        let (directory, new) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.walk(ROOT, directory).unwrap();
        let fid = self.create(parent, new, bits::OPEN_WRITE, 0o644).unwrap();
        self.clunk(parent).unwrap();
        let mut done = 0;
        while done < content.len() {
            let end = content.len().min(done + 100_000);
            done += self.write(fid, done as u64, &content[done..end]).unwrap() as usize;
        }
        self.clunk(fid).unwrap();
    }

    /// Reads a file whole.
    pub(crate) fn get(&mut self, path: &str) -> Answered<Vec<u8>> {
        let fid = self.open_at(path, bits::OPEN_READ)?;
        let mut content = Vec::new();
        loop {
            let piece = self.read(fid, content.len() as u64, 100_000)?;
            if piece.is_empty() {
                break;
            }
            content.extend(piece);
        }
        self.clunk(fid)?;
        Ok(content)
    }
}
