//! What a process that forwards ports says while it does: on its terminal, or in a log of bounded length.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
};

use camino::Utf8Path;
use jiff::Timestamp;

use crate::ui::{Ui, clean};

/// Length at which a log is cut, in bytes.
const MOST: u64 = 256 << 10;

/// What is kept of it then: its end.
const KEPT: u64 = 64 << 10;

/// Where it is said.
#[derive(Debug)]
pub(crate) enum Journal<'a> {
    /// To the user who waits.
    Terminal(&'a Ui),
    /// To whoever looks later.
    Log(Log),
}

impl Journal<'_> {
    /// Says what happened.
    pub(crate) fn say(&mut self, text: &str) {
        match self {
            Self::Terminal(ui) => ui.warning(text),
            Self::Log(log) => log.line(text),
        }
    }
}

/// A log file.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
}

impl Log {
    /// Opens a log to write behind what it has, and makes it and its directory where they are missing; both are for the
    /// user alone.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn open(path: &Utf8Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
        Ok(Self { file })
    }

    /// Returns the file, for what a process writes there that breaks down.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Writes a line with the time. When it cannot be written there is nobody to tell.
    pub(crate) fn line(&mut self, text: &str) {
        let text = clean(text).replace('\n', " ");
        let line = format!("{:.0} {text}\n", Timestamp::now());
        let _unread = self.cut(line.len() as u64).and_then(|()| self.file.write_all(line.as_bytes()));
    }

    /// Keeps only the end of a log that would become too long. It is cut in place, for others hold it open, too, and all
    /// of them write at its end.
    fn cut(&mut self, more: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length.saturating_add(more) <= MOST {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(length.saturating_sub(KEPT)))?;
        let mut end = Vec::new();
        (&self.file).take(KEPT).read_to_end(&mut end)?;
        // The first line is cut in two.
        let begin = end.iter().position(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        self.file.set_len(0)?;
        self.file.write_all(&end[begin..])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use camino::Utf8PathBuf;

    use super::*;

    fn log() -> (tempfile::TempDir, Utf8PathBuf, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("logs/tunnels-web.log");
        let log = Log::open(&path).unwrap();
        (dir, path, log)
    }

    #[test]
    fn lines_have_their_time_and_nothing_steers_a_terminal() {
        let (_dir, path, mut log) = log();
        log.line("one\ntwo \u{1b}[2J");
        let text = fs::read_to_string(path).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.parse::<Timestamp>().is_ok(), "{text}");
        assert_eq!(rest, "one two \u{fffd}[2J\n");
    }

    #[test]
    fn a_log_keeps_its_end_however_much_is_written() {
        let (_dir, path, mut log) = log();
        for number in 0..5000 {
            log.line(&format!("{number} {}", "x".repeat(100)));
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= MOST && text.len() as u64 >= KEPT / 2, "{}", text.len());
        assert!(text.lines().last().unwrap().contains(" 4999 "), "the last line is there");
        assert!(text.lines().all(|line| line.ends_with('x') && line.starts_with("20")), "lines are whole");
    }
}
