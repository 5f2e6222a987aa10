//! Where the output of a step goes: to the host as it comes, to the log as a whole, and its end into the failure.
//!
//! Passwords are masked before any of the three. The log's disk may be slow, so it has a thread of its own behind a short
//! queue, which slows the step down and not the agent.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    live::{Live, PATIENCE},
    mask::Masker,
    text::Tail,
};

/// Longest log, in bytes: a hook that never stops printing must not fill the disk.
pub(super) const MAX_LOG: u64 = 256 << 20;

/// Pieces that wait for the disk, each of at most 64 KiB.
const QUEUE: usize = 16;

/// How long a piece waits for room in the queue.
const ROOM: Duration = Duration::from_secs(10);

/// How long the end of a step waits for the disk.
const FLUSH: Duration = Duration::from_secs(30);

/// One step's output.
#[derive(Debug)]
pub(super) struct Output {
    live: Option<Arc<Live>>,
    log: Log,
    masker: Masker,
    tail: Tail,
    patience: Duration,
}

impl Output {
    /// Makes one; without a file it is not kept.
    pub(super) fn new(live: Arc<Live>, log: Option<File>, masker: Masker) -> Self {
        Self {
            live: Some(live),
            log: log.map_or_else(Log::none, |file| Log::begin(file, MAX_LOG)),
            masker,
            tail: Tail::default(),
            patience: PATIENCE,
        }
    }

    /// Takes the next bytes, at most [`PIECE`](super::live::PIECE) of them.
    pub(super) async fn take(&mut self, bytes: &[u8]) {
        let shown = self.masker.pass(bytes);
        self.pass_on(shown).await;
    }

    /// Ends the step: its log is on disk. What comes later goes to the log alone. Returns the last lines and, when the
    /// log is not whole, why.
    pub(super) async fn end_of_step(&mut self) -> (Vec<String>, Option<String>) {
        let held = self.masker.end();
        self.pass_on(held).await;
        self.live = None;
        let flushed = timeout(FLUSH, self.log.flush()).await;
        let trouble = match flushed {
            Ok(trouble) => trouble,
            Err(_) => Some("the disk does not answer".to_owned()),
        };
        (self.tail.lines(), trouble)
    }

    async fn pass_on(&mut self, shown: Vec<u8>) {
        if shown.is_empty() {
            return;
        }
        let shown = Bytes::from(shown);
        if let Some(live) = &self.live {
            self.tail.add(&shown);
            live.output(shown.clone(), &mut self.patience).await;
        }
        self.log.write(shown, ROOM).await;
    }
}

/// The way to the log's thread.
#[derive(Debug)]
struct Log {
    queue: Option<mpsc::Sender<Item>>,
    trouble: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
enum Item {
    Bytes(Bytes),
    /// Everything before it has been written.
    Flush(oneshot::Sender<()>),
}

impl Log {
    fn none() -> Self {
        Self { queue: None, trouble: Arc::default() }
    }

    fn begin(file: File, limit: u64) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        let trouble = Arc::<Mutex<Option<String>>>::default();
        let told = Arc::clone(&trouble);
        // Ends with the sender.
        tokio::task::spawn_blocking(move || keep(file, limit, items, &told));
        Self { queue: Some(queue), trouble }
    }

    /// Writes as soon as there is room. A disk that makes none for long costs the rest of the log: whoever writes here has
    /// a limit and a stop to look at.
    async fn write(&mut self, bytes: Bytes, patience: Duration) {
        let Some(queue) = &self.queue else { return };
        if timeout(patience, queue.send(Item::Bytes(bytes))).await.is_err() {
            let text =
                format!("the disk took nothing for {} s, and what came then is missing", patience.as_secs());
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            // Its thread ends with what it has.
            self.queue = None;
        }
    }

    async fn flush(&self) -> Option<String> {
        if let Some(queue) = &self.queue {
            let (tell, told) = oneshot::channel();
            if queue.send(Item::Flush(tell)).await.is_ok() {
                let _ended = told.await;
            }
        }
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Writes what comes, until nothing comes any more.
fn keep(mut file: File, limit: u64, mut items: mpsc::Receiver<Item>, trouble: &Mutex<Option<String>>) {
    let mut room = limit;
    let mut writing = true;
    while let Some(item) = items.blocking_recv() {
        match item {
            Item::Bytes(bytes) if writing => {
                let result = keep_some(&mut file, &bytes, &mut room);
                writing = matches!(result, Ok(Kept::Whole));
                let text = match result {
                    Ok(Kept::Whole | Kept::Replaced) => None,
                    Ok(Kept::Full) => Some(format!("it is longer than {} MB", limit >> 20)),
                    Err(error) => Some(error.to_string()),
                };
                if text.is_some() {
                    *trouble.lock().unwrap_or_else(PoisonError::into_inner) = text;
                }
            }
            Item::Bytes(_) => {}
            Item::Flush(done) => {
                // Whoever asked may have lost patience.
                let _nobody = done.send(());
            }
        }
    }
}

/// What became of a piece.
enum Kept {
    Whole,
    /// There is no room for all of it.
    Full,
    /// A later run has begun another file under the name; this one is nobody's.
    Replaced,
}

fn keep_some(file: &mut File, bytes: &[u8], room: &mut u64) -> io::Result<Kept> {
    if file.metadata()?.nlink() == 0 {
        return Ok(Kept::Replaced);
    }
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length <= *room {
        *room -= length;
        return file.write_all(bytes).map(|()| Kept::Whole);
    }
    file.write_all(&bytes[..usize::try_from(*room).unwrap_or(bytes.len())])?;
    file.write_all("\n[… the log is full: what follows is not kept …]\n".as_bytes())?;
    Ok(Kept::Full)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_log_has_all_up_to_its_limit_and_says_when_it_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::begin(File::create(&path).unwrap(), 10);
        log.write("12345".into(), ROOM).await;
        assert_eq!(log.flush().await, None);
        log.write("67890ab".into(), ROOM).await;
        log.write("more".into(), ROOM).await;
        assert!(log.flush().await.unwrap().starts_with("it is longer than"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("1234567890\n[… the log is full") && !text.contains("more"), "{text}");
    }

    #[tokio::test]
    async fn a_log_that_a_later_run_has_replaced_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::begin(File::create(&path).unwrap(), 1000);
        fs::remove_file(&path).unwrap();
        log.write("daemon".into(), ROOM).await;
        assert_eq!(log.flush().await, None);
    }

    #[tokio::test]
    async fn a_full_disk_is_told() {
        // Each write to it fails with ENOSPC.
        let mut log = Log::begin(fs::OpenOptions::new().write(true).open("/dev/full").unwrap(), 1000);
        log.write("x".into(), ROOM).await;
        assert!(log.flush().await.unwrap().contains("No space left"));
        log.write("x".into(), ROOM).await;
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_costs_the_log_and_little_time() {
        let (queue, _nobody_reads) = mpsc::channel(1);
        let mut log = Log { queue: Some(queue), trouble: Arc::default() };
        for _ in 0..100 {
            log.write("x".into(), Duration::from_millis(10)).await;
        }
        assert!(log.flush().await.unwrap().contains("the disk took nothing"));
    }
}
