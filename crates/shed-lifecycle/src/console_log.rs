//! The console of a shed, line by line: the end of its log, and what the guest writes from then on.
//!
//! It is a file of the host's, so it is there for stopped sheds as well. The VMM appends to it, the server cuts it in
//! place now and then; the kernel tells of both. Lines are bounded and made fit to be shown.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use camino::{Utf8Path, Utf8PathBuf};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::OFlags;
use shed_types::ShedName;
use tokio::sync::{Notify, watch};

use crate::{ShedView, Sheds, console::strip_escapes, context::blocking};

/// How much is read at a time, in bytes.
const PIECE: usize = 64 << 10;

/// How far back lines are looked for, in bytes: a log that is longer is cut soon.
const BACK: u64 = 16 << 20;

/// Longest line in bytes; a longer one comes in pieces.
const LINE: usize = 4096;

/// By how many of its last bytes the place is found again in a log that was cut.
const TRACE: usize = 256;

/// How far back from its end the place is looked for in a log that was cut, in bytes.
const TRACE_BACK: u64 = 1 << 20;

/// Why the console cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error("there is no shed named `{shed}`")]
    NotFound { shed: ShedName },
    #[error("the console log of shed `{shed}`, {path}, cannot be read")]
    Read {
        shed: ShedName,
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the console log of shed `{shed}`, {path}, cannot be watched")]
    Watch {
        shed: ShedName,
        path: Utf8PathBuf,
        #[source]
        source: notify::Error,
    },
}

impl Sheds {
    /// Opens the console of a shed, running or not: its last `lines` lines, all that there are without it, and with
    /// `follow` what comes.
    ///
    /// # Errors
    /// When there is no such shed, or its log cannot be read.
    pub async fn console(
        &self,
        name: &ShedName,
        lines: Option<u32>,
        follow: bool,
    ) -> Result<ConsoleLines, ConsoleError> {
        let handle = self.handle(name).ok_or_else(|| ConsoleError::NotFound { shed: name.clone() })?;
        ConsoleLines::open(name.clone(), self.files(name).console_log, lines, follow.then_some(handle.view))
            .await
    }
}

/// Lines of a console as they come.
#[derive(Debug)]
pub struct ConsoleLines {
    shed: ShedName,
    path: Utf8PathBuf,
    reader: Reader,
    ready: VecDeque<String>,
    /// Absent when it ends with the file.
    follow: Option<Follow>,
}

/// What tells that there may be more.
#[derive(Debug)]
struct Follow {
    changed: Arc<Notify>,
    /// Ends with the shed.
    shed: watch::Receiver<ShedView>,
    /// Watches the file, or its directory while there is none.
    watcher: RecommendedWatcher,
    watched: Utf8PathBuf,
}

/// How far a log is read. Pure but for the file it is given.
#[derive(Debug, Default)]
struct Reader {
    file: Option<File>,
    place: u64,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// What was read last.
    trace: Vec<u8>,
}

impl ConsoleLines {
    async fn open(
        shed: ShedName,
        path: Utf8PathBuf,
        lines: Option<u32>,
        follow: Option<watch::Receiver<ShedView>>,
    ) -> Result<Self, ConsoleError> {
        let read = |source| ConsoleError::Read { shed: shed.clone(), path: path.clone(), source };
        let watch = |source| ConsoleError::Watch { shed: shed.clone(), path: path.clone(), source };
        // Watched before it is read, so that nothing falls between.
        let follow = follow.map(|shed| Follow::of(&path, shed)).transpose().map_err(watch)?;
        let from = path.clone();
        let reader = blocking(move || Reader::open(&from, lines)).await.map_err(read)?;
        Ok(Self { shed, path, reader, ready: VecDeque::new(), follow })
    }

    /// Waits for the next line; nothing when there will be no more.
    ///
    /// # Errors
    /// When the log cannot be read.
    ///
    /// # Cancel safety
    /// None: lines may be lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<String>, ConsoleError> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let (mut reader, path) = (std::mem::take(&mut self.reader), self.path.clone());
            let (reader, lines) = blocking(move || {
                let lines = reader.read(&path);
                (reader, lines)
            })
            .await;
            self.reader = reader;
            let read =
                |source| ConsoleError::Read { shed: self.shed.clone(), path: self.path.clone(), source };
            self.ready = lines.map_err(read)?;
            if !self.ready.is_empty() {
                continue;
            }
            let Some(follow) = &mut self.follow else {
                return Ok(self.reader.rest());
            };
            if self.reader.at_end(&self.path) && !follow.wait(&self.path, &self.shed).await? {
                return Ok(self.reader.rest());
            }
        }
    }
}

impl Follow {
    fn of(path: &Utf8Path, shed: watch::Receiver<ShedView>) -> Result<Self, notify::Error> {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        // Whatever it is, the file is looked at; an error of the watcher's as well.
        let mut watcher = notify::recommended_watcher(move |_event| wake.notify_one())?;
        let watched = Self::watch(&mut watcher, path)?;
        Ok(Self { changed, shed, watcher, watched })
    }

    /// Watches the log, or the directory in which it will be.
    fn watch(watcher: &mut RecommendedWatcher, path: &Utf8Path) -> Result<Utf8PathBuf, notify::Error> {
        let directory = path.parent().unwrap_or(Utf8Path::new("/"));
        let watched = if path.exists() { path } else { directory };
        watcher.watch(Path::new(watched), RecursiveMode::NonRecursive)?;
        Ok(watched.to_owned())
    }

    /// Waits until there may be more to read; `false` when the shed is gone.
    async fn wait(&mut self, path: &Utf8Path, shed: &ShedName) -> Result<bool, ConsoleError> {
        tokio::select! {
            () = self.changed.notified() => {}
            // A start may have made the file.
            changed = self.shed.changed() => if changed.is_err() { return Ok(false) },
        }
        if self.watched != *path && path.exists() {
            let watch = |source| ConsoleError::Watch { shed: shed.clone(), path: path.to_owned(), source };
            let _directory_is_gone = self.watcher.unwatch(Path::new(&self.watched));
            self.watched = Self::watch(&mut self.watcher, path).map_err(watch)?;
        }
        Ok(true)
    }
}

impl Reader {
    /// Begins at the last so many lines; a log that is missing is empty.
    fn open(path: &Utf8Path, lines: Option<u32>) -> io::Result<Self> {
        let mut reader = Self::default();
        reader.reopen(path)?;
        if let Some(file) = &reader.file {
            let end = file.metadata()?.len();
            reader.place = match lines {
                Some(lines) => match begin_of_lines(file, end, lines) {
                    // It was cut at this moment, and is short now.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
                    place => place?,
                },
                None => end.saturating_sub(BACK),
            };
        }
        Ok(reader)
    }

    fn reopen(&mut self, path: &Utf8Path) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
            Ok(file) => self.file = Some(file),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads on and returns the lines that end in what it read, none at the end of the file.
    fn read(&mut self, path: &Utf8Path) -> io::Result<VecDeque<String>> {
        let mut lines = VecDeque::new();
        if self.file.is_none() {
            self.reopen(path)?;
        }
        let Some(file) = &self.file else { return Ok(lines) };
        let length = file.metadata()?.len();
        if length < self.place {
            self.place = find_place(file, length, &self.trace)?;
        }
        let mut piece = vec![0; PIECE];
        let read = file.read_at(&mut piece, self.place)?;
        self.place += read as u64;
        self.take(&piece[..read], &mut lines);
        Ok(lines)
    }

    /// Tells whether there is nothing more to read at this moment.
    fn at_end(&self, path: &Utf8Path) -> bool {
        match &self.file {
            Some(file) => file.metadata().is_ok_and(|metadata| metadata.len() == self.place),
            None => !path.exists(),
        }
    }

    fn take(&mut self, bytes: &[u8], lines: &mut VecDeque<String>) {
        self.trace.extend_from_slice(&bytes[bytes.len().saturating_sub(TRACE)..]);
        self.trace.drain(..self.trace.len().saturating_sub(TRACE));
        for byte in bytes {
            if *byte == b'\n' || self.line.len() >= LINE {
                lines.push_back(printable(&self.line));
                self.line.clear();
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
    }

    /// Returns the last line, which has no end.
    fn rest(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| printable(&std::mem::take(&mut self.line)))
    }
}

fn printable(line: &[u8]) -> String {
    strip_escapes(&String::from_utf8_lossy(line)).trim_end().to_owned()
}

/// Returns where the last `lines` lines of a file of `end` bytes begin.
fn begin_of_lines(file: &File, end: u64, lines: u32) -> io::Result<u64> {
    if lines == 0 || end == 0 {
        return Ok(end);
    }
    let mut last = [0];
    file.read_exact_at(&mut last, end - 1)?;
    // The line feed at the very end ends the last line and begins none.
    let mut left = u64::from(lines) + u64::from(last == *b"\n");
    let mut piece = vec![0; PIECE];
    let mut from = end;
    while from > 0 && end - from < BACK {
        let length = from.min(PIECE as u64);
        from -= length;
        let piece = &mut piece[..usize::try_from(length).unwrap_or(PIECE)];
        file.read_exact_at(piece, from)?;
        for (at, _) in piece.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            left -= 1;
            if left == 0 {
                return Ok(from + at as u64 + 1);
            }
        }
    }
    Ok(from)
}

/// Finds the place again in a log that was cut: behind what was read last, or else at the end.
fn find_place(file: &File, length: u64, trace: &[u8]) -> io::Result<u64> {
    let from = length.saturating_sub(TRACE_BACK);
    let mut end = vec![0; usize::try_from(length - from).unwrap_or(0)];
    let mut read = 0;
    while read < end.len() {
        match file.read_at(&mut end[read..], from + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    end.truncate(read);
    let found =
        (!trace.is_empty()).then(|| end.windows(trace.len()).rposition(|window| window == trace)).flatten();
    Ok(match found {
        Some(at) => from + (at + trace.len()) as u64,
        None => from + read as u64,
    })
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Duration};

    use jiff::Timestamp;
    use proptest::prelude::*;
    use tokio::time::timeout;

    use super::*;

    fn log(content: &[u8]) -> (tempfile::TempDir, Utf8PathBuf) {
        let guard = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(guard.path()).unwrap().join("console.log");
        std::fs::write(&path, content).unwrap();
        (guard, path)
    }

    fn view() -> (watch::Sender<ShedView>, watch::Receiver<ShedView>) {
        watch::channel(ShedView {
            name: "api".parse().unwrap(),
            status: crate::ShedStatus::Stopped,
            created_at: Timestamp::UNIX_EPOCH,
            backend: shed_types::BackendKind::Qemu,
            repo: None,
            local_dir: None,
            image: None,
            image_path: None,
            cpus: 1.try_into().unwrap(),
            memory_mb: 512.try_into().unwrap(),
            disk_gb: 20.try_into().unwrap(),
            rootfs_path: "/r".into(),
            pid: None,
            ip_address: None,
            last_healthy: None,
            agent_started_at: None,
            extensions: Default::default(),
            error: None,
            warnings: Vec::new(),
        })
    }

    async fn open(
        path: &Utf8Path,
        lines: Option<u32>,
        follow: Option<watch::Receiver<ShedView>>,
    ) -> ConsoleLines {
        ConsoleLines::open("api".parse().unwrap(), path.to_owned(), lines, follow).await.unwrap()
    }

    async fn next(lines: &mut ConsoleLines) -> Option<String> {
        timeout(Duration::from_secs(60), lines.next()).await.expect("it comes").unwrap()
    }

    async fn all(path: &Utf8Path, lines: Option<u32>) -> Vec<String> {
        let mut console = open(path, lines, None).await;
        let mut all = Vec::new();
        while let Some(line) = next(&mut console).await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn the_last_lines_come_clean_and_the_last_one_without_an_end_too() {
        let (_guard, path) = log(b"one\r\n\x1b[31mtwo\x1b[0m\x07\n\nfo\xffur");
        assert_eq!(all(&path, None).await, ["one", "two", "", "fo\u{fffd}ur"]);
        assert_eq!(all(&path, Some(2)).await, ["", "fo\u{fffd}ur"]);
        assert_eq!(all(&path, Some(0)).await, [""; 0]);
        assert_eq!(all(&path.with_file_name("none"), Some(3)).await, [""; 0]);
        let long: String = "x".repeat(LINE * 2 + 1);
        std::fs::write(&path, &long).unwrap();
        assert_eq!(all(&path, Some(1)).await.iter().map(String::len).collect::<Vec<_>>(), [LINE, LINE, 1]);
        let link = path.with_file_name("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let error = ConsoleLines::open("api".parse().unwrap(), link, None, None).await.unwrap_err();
        assert!(matches!(error, ConsoleError::Read { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_written_is_told_and_a_cut_repeats_and_loses_no_line() {
        let (_guard, path) = log(b"old\nlast\n");
        let (sender, receiver) = view();
        let mut console = open(&path, Some(1), Some(receiver)).await;
        assert_eq!(next(&mut console).await.unwrap(), "last");
        let mut writer = File::options().append(true).open(&path).unwrap();
        for number in 0..1000 {
            writeln!(writer, "line {number}").unwrap();
            assert_eq!(next(&mut console).await.unwrap(), format!("line {number}"));
            if number % 300 == 100 {
                crate::log_cut::cut(&path, 700, 700).unwrap().unwrap();
            }
        }
        drop(sender);
        assert_eq!(next(&mut console).await, None);
    }

    #[tokio::test]
    async fn a_console_that_is_not_there_yet_is_waited_for() {
        let (_guard, path) = log(b"");
        std::fs::remove_file(&path).unwrap();
        let (_sender, receiver) = view();
        let mut console = open(&path, Some(10), Some(receiver)).await;
        let written = async {
            std::fs::write(&path, "first\n").unwrap();
            File::options().append(true).open(&path).unwrap().write_all(b"second\n").unwrap();
        };
        let (line, ()) = tokio::join!(next(&mut console), written);
        assert_eq!(line.unwrap(), "first");
        assert_eq!(next(&mut console).await.unwrap(), "second");
        File::options().append(true).open(&path).unwrap().write_all(b"third\n").unwrap();
        assert_eq!(next(&mut console).await.unwrap(), "third");
    }

    proptest! {
        #[test]
        fn as_many_lines_are_found_as_are_asked_for(
            mut lines in prop::collection::vec("[ab]{0,9}", 0..40), asked in 0u32..50, ended: bool,
        ) {
            let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            if !ended {
                text.push('z');
                lines.push("z".to_owned());
            }
            let (_guard, path) = log(text.as_bytes());
            let from = begin_of_lines(&File::open(&path).unwrap(), text.len() as u64, asked).unwrap();
            let found: Vec<&str> = text[usize::try_from(from).unwrap()..].lines().collect();
            prop_assert_eq!(found, &lines[lines.len().saturating_sub(asked as usize)..]);
        }
    }
}
