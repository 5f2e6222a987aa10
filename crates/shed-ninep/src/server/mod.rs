//! The server: threads that take turns at the stream.
//!
//! The thread that holds the reading end reads one message, hands the end to the next thread, and then answers. So nobody is
//! woken between a request's arrival and its answer, no queue holds messages, and as many requests run at once as there are
//! threads. When all of them are busy nothing more is read, which is how a guest that asks too much is slowed down.

mod attributes;
mod directory;
mod fids;
mod files;
mod frames;
mod identity;
mod qids;
mod root;
mod session;
mod tags;
mod tree;
mod walk;

use std::{
    io::{self, BufReader, Read, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::proto::{Refusal, Reply, Request, Tag, header};
use frames::{Buffer, next_message, write_message};
use session::{Answer, Session};
use tags::Tags;

pub use root::Root;

/// uid and gid under which the guest sees the directory's owner and group: those of its user `shed`.
pub const GUEST_ID: u32 = 1000;

/// uid and gid of everybody else: `nobody` (user_namespaces(7) has the number as the overflow id).
pub const NOBODY: u32 = 65534;

/// What is read ahead of the message that is being read; small requests come with one system call each.
const READ_AHEAD: usize = 16 * 1024;

/// How a directory is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whatever changes anything is refused with EROFS.
    pub read_only: bool,
    /// Files that the guest opens with `O_APPEND` are written at their end, whatever the offset: right with `cache=none`,
    /// where both sides may append at once. With `cache=mmap` the guest's kernel writes whole pages back through such a fid,
    /// and needs the offsets that it gives.
    pub append_at_end: bool,
    /// The guest's kernel keeps no content of files: every read asks the server (a qid version of 0 tells Linux so, unless it
    /// mounts with `ignoreqv`). With `cache=mmap` a file that stays open in the guest shows what the host has written to it
    /// only so; files can be mapped all the same. Otherwise versions follow the files' times.
    pub uncached: bool,
    /// Fids that the guest may have at once. Each holds one or two descriptors of this process.
    pub max_fids: usize,
    /// Largest message, in bytes.
    pub max_message: u32,
    /// Requests that are answered at once.
    pub threads: usize,
}

impl Options {
    /// Smallest message that a version may agree on (the least that Linux takes).
    pub const MIN_MESSAGE: u32 = 4096;
    /// Largest message that is ever agreed on.
    pub const MAX_MESSAGE: u32 = 1 << 20;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            append_at_end: true,
            uncached: true,
            max_fids: 1 << 16,
            max_message: Self::MAX_MESSAGE,
            threads: 8,
        }
    }
}

/// Serves a directory until the stream ends. Both ends are dropped then.
///
/// The calling thread only waits. The threads that work have a umask of their own and, when the process is root, the
/// identity of the directory's owner.
///
/// # Errors
/// When the stream fails, or the other end breaks the protocol so that nothing after it can be read: a message larger than
/// agreed on or too short to be one, or a second request with the tag of one that is not answered yet.
pub fn serve(
    reader: impl Read + Send,
    writer: impl Write + Send,
    root: Root,
    options: Options,
) -> io::Result<()> {
    let threads = options.threads.max(1);
    let identity = root.identity();
    let server = Server {
        input: Mutex::new(BufReader::with_capacity(READ_AHEAD, reader)),
        over: AtomicBool::new(false),
        output: Mutex::new(writer),
        tags: Tags::default(),
        session: Session::new(root, options),
    };
    thread::scope(|scope| {
        // Nobody reads before all are there.
        let input = lock(&server.input);
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            let work = || {
                let _over = Over(&server.over);
                identity.adopt()?;
                server.work()
            };
            match thread::Builder::new().name("9p".to_owned()).spawn_scoped(scope, work) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    server.over.store(true, Ordering::Release);
                    return Err(error);
                }
            }
        }
        drop(input);
        let mut result = Ok(());
        for worker in workers {
            let done =
                worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the 9P server panicked")));
            result = result.and(done);
        }
        result
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing more is read when one thread has ended, however that came.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

struct Server<R, W> {
    input: Mutex<BufReader<R>>,
    over: AtomicBool,
    output: Mutex<W>,
    tags: Tags,
    session: Session,
}

/// What a thread has to do after its turn at the stream.
#[expect(clippy::large_enum_variant, reason = "one exists at a time, on the stack of a thread")]
enum Turn<'a> {
    /// Nothing: it was the end.
    End,
    /// Nothing: the message is answered.
    Done,
    Answer(Tag, Result<Request<'a>, Refusal>),
}

impl<R: Read, W: Write> Server<R, W> {
    fn work(&self) -> io::Result<()> {
        let mut buffer = Buffer::default();
        let mut answer = Answer::default();
        loop {
            answer.clear();
            let mut stream = lock(&self.input);
            if self.over.load(Ordering::Acquire) {
                return Ok(());
            }
            let turn = self.turn(&mut *stream, &mut buffer, &mut answer);
            if matches!(turn, Ok(Turn::End) | Err(_)) {
                // Before another thread has its turn, which would read on.
                self.over.store(true, Ordering::Release);
            }
            drop(stream);
            match turn? {
                Turn::End => return Ok(()),
                Turn::Done => {}
                Turn::Answer(tag, request) => {
                    self.session.answer(tag, request, &mut answer);
                    self.reply(tag, &answer)?;
                }
            }
        }
    }

    /// Reads one message; what depends on the order of messages is done before the next one is read.
    fn turn<'a>(
        &self,
        stream: &mut impl Read,
        buffer: &'a mut Buffer,
        answer: &mut Answer,
    ) -> io::Result<Turn<'a>> {
        let Some(message) = next_message(stream, buffer, self.session.limit())? else { return Ok(Turn::End) };
        let Some((_, tag)) = header(message) else {
            return Err(frames::broken("a 9P message without a tag"));
        };
        let reply = match Request::parse(message) {
            // All that came before is answered first, so that no answer of an old session comes after this one.
            Ok((_, Request::Version { size, version })) => {
                self.tags.wait_until_idle();
                self.session.version(size, version.0)
            }
            Ok((_, Request::Flush { tag: old })) => {
                if self.tags.defer(tag, old)? {
                    return Ok(Turn::Done);
                }
                Reply::Flush {}
            }
            request => {
                self.tags.begin(tag)?;
                return Ok(Turn::Answer(tag, request.map(|(_, request)| request)));
            }
        };
        reply.put(tag, &mut answer.head);
        write_message(&mut *lock(&self.output), &answer.head, &[])?;
        Ok(Turn::Done)
    }

    /// Sends an answer, and those to flushes that waited for it.
    fn reply(&self, tag: Tag, answer: &Answer) -> io::Result<()> {
        let mut output = lock(&self.output);
        // Before the client sees the answer it does not use the tag again, and a flush that is read from now on finds the
        // tag gone and is answered behind this.
        let flushes = self.tags.end(tag);
        write_message(&mut *output, &answer.head, answer.data())?;
        let mut head = Vec::new();
        for flush in flushes {
            Reply::Flush {}.put(flush, &mut head);
        }
        if head.is_empty() { Ok(()) } else { write_message(&mut *output, &head, &[]) }
    }
}
