//! What Firecracker counts: it appends a line of JSON to a file each minute, with what has happened since the line before
//! (its docs/metrics.md), and goes on for as long as the machine runs.
//!
//! [`keep`] reads the file while the machine runs, adds up what matters to whoever runs the host, and gives the file's room
//! back to the disk: a month of lines would have hundreds of megabytes. Firecracker does not open the file to append, so
//! it is not cut but gets a hole; what has been read is a hole, which is also how the next server knows where to go on.
//! A guest that has broken into its Firecracker can write anything there: lines are bounded, and what is none is skipped.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, OpenOptionsExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom as Find, fallocate, seek},
    io::Errno,
};
use serde::Deserialize;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::VmmCounts;

/// How often the file is read: as often as Firecracker writes to it.
const PACE: Duration = Duration::from_secs(60);

/// Most bytes that are read at a time. A line has some ten kilobytes; what is longer than this is none.
const MOST: usize = 1 << 20;

/// What all machines of a backend have counted since their server started.
#[derive(Debug, Default)]
pub(super) struct Totals {
    disk_read: AtomicU64,
    disk_written: AtomicU64,
    network_received: AtomicU64,
    network_sent: AtomicU64,
    failures: AtomicU64,
}

impl Totals {
    /// Returns them.
    pub(super) fn counts(&self) -> VmmCounts {
        let Self { disk_read, disk_written, network_received, network_sent, failures } = self;
        let [disk_read_bytes, disk_written_bytes, network_received_bytes, network_sent_bytes, failures] =
            [disk_read, disk_written, network_received, network_sent, failures]
                .map(|count| count.load(Relaxed));
        VmmCounts {
            disk_read_bytes,
            disk_written_bytes,
            network_received_bytes,
            network_sent_bytes,
            failures,
        }
    }

    fn add(&self, Line { block, net, vsock }: &Line) {
        // It wraps only when somebody writes nonsense into the file.
        let add = |total: &AtomicU64, count: u64| {
            let _before = total.fetch_add(count, Relaxed);
        };
        add(&self.disk_read, block.read_bytes);
        add(&self.disk_written, block.write_bytes);
        add(&self.network_received, net.rx_bytes_count);
        add(&self.network_sent, net.tx_bytes_count);
        for failures in [
            block.execute_fails,
            block.event_fails,
            net.rx_fails,
            net.tx_fails,
            net.event_fails,
            vsock.rx_queue_event_fails,
            vsock.tx_queue_event_fails,
            vsock.ev_queue_event_fails,
            vsock.muxer_event_fails,
        ] {
            add(&self.failures, failures);
        }
    }
}

/// The part of a line that is read; versions add and drop keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    block: Block,
    net: Net,
    vsock: Vsock,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    read_bytes: u64,
    write_bytes: u64,
    execute_fails: u64,
    event_fails: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Net {
    rx_bytes_count: u64,
    tx_bytes_count: u64,
    rx_fails: u64,
    tx_fails: u64,
    event_fails: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "they are Firecracker's")]
struct Vsock {
    rx_queue_event_fails: u64,
    tx_queue_event_fails: u64,
    ev_queue_event_fails: u64,
    muxer_event_fails: u64,
}

/// Adds what is written to the file to the totals until the machine has ended, and what it wrote last.
pub(super) async fn keep(file: Utf8PathBuf, totals: Arc<Totals>, ended: CancellationToken) {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut troubled = false;
    loop {
        let has_ended = ended.run_until_cancelled(ticks.tick()).await.is_none();
        let (path, into) = (file.clone(), Arc::clone(&totals));
        let taken = spawn_blocking(move || take(&path, &into)).await.map_err(io::Error::other).flatten();
        if has_ended {
            // The shed's directory may be gone already.
            return;
        }
        // Said once: a disk that is full stays so for a while.
        if let Err(error) = &taken
            && !troubled
        {
            tracing::warn!(%file, %error, "what Firecracker counts cannot be read");
        }
        troubled = taken.is_err();
    }
}

/// Reads all whole lines that are there, and gives their room back. Blocks.
fn take(path: &Utf8Path, totals: &Totals) -> io::Result<()> {
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(nofollow).open(path)?;
    while take_some(&mut file, totals)? {}
    Ok(())
}

/// Reads lines of at most [`MOST`] bytes; returns whether there may be more.
fn take_some(file: &mut File, totals: &Totals) -> io::Result<bool> {
    let begin = match seek(&*file, Find::Data(0)) {
        Ok(begin) => begin,
        // There is nothing but what has been read.
        Err(Errno::NXIO) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let _at = file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    let _length = file.take(MOST as u64).read_to_end(&mut bytes)?;
    let is_full = bytes.len() == MOST;
    let taken = match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => last + 1,
        None if is_full => bytes.len(),
        // The end of a line is still to come.
        None => return Ok(false),
    };
    for line in bytes[..taken].split(|byte| *byte == b'\n') {
        // What was read before, of a block of which the rest was not.
        let line = line.trim_ascii();
        let from = line.iter().position(|byte| *byte != 0).unwrap_or(line.len());
        if let Ok(line) = serde_json::from_slice::<Line>(&line[from..]) {
            totals.add(&line);
        }
    }
    forget(file, begin, taken as u64)?;
    Ok(is_full)
}

/// Makes a hole of what was read.
fn forget(file: &File, begin: u64, length: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, begin, length) {
        Ok(()) => Ok(()),
        // The file system has no holes; what is read is at least not read again.
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0; usize::try_from(length).unwrap_or(MOST)];
            file.write_all_at(&zeros, begin)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::MetadataExt};

    use super::*;

    const LINE: &str = r#"{"utc_timestamp_ms":1,"block":{"read_bytes":10,"write_bytes":3,"execute_fails":1},"block_rootfs":{"read_bytes":10},"net":{"rx_bytes_count":7,"tx_bytes_count":5},"later":{}}"#;

    struct Machine {
        path: Utf8PathBuf,
        /// As Firecracker has it: not opened to append.
        writer: File,
        _dir: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = Utf8Path::from_path(dir.path()).unwrap().join("metrics.json");
            let writer = File::create(&path).unwrap();
            Self { path, writer, _dir: dir }
        }

        fn writes(&mut self, text: &str) {
            self.writer.write_all(text.as_bytes()).unwrap();
        }

        fn blocks(&self) -> u64 {
            self.writer.metadata().unwrap().blocks()
        }
    }

    #[test]
    fn each_line_is_counted_once_whoever_reads_it() {
        let mut machine = Machine::new();
        let totals = Totals::default();
        take(&machine.path, &totals).unwrap();
        machine.writes(&format!("{LINE}\n{LINE}\n{}", &LINE[..40]));
        take(&machine.path, &totals).unwrap();
        assert_eq!((totals.counts().disk_read_bytes, totals.counts().failures), (20, 2));
        // Another server, which knows nothing of this one.
        let next = Totals::default();
        machine.writes(&format!("{}\n", &LINE[40..]));
        take(&machine.path, &next).unwrap();
        take(&machine.path, &next).unwrap();
        let expected = VmmCounts {
            disk_read_bytes: 10,
            disk_written_bytes: 3,
            network_received_bytes: 7,
            network_sent_bytes: 5,
            failures: 1,
        };
        assert_eq!(next.counts(), expected);
    }

    #[test]
    fn a_month_of_lines_takes_no_room() {
        let mut machine = Machine::new();
        let totals = Totals::default();
        let mut before = 0;
        for _ in 0..50 {
            machine.writes(&format!("{LINE}\n").repeat(1000));
            before = before.max(machine.blocks());
            take(&machine.path, &totals).unwrap();
        }
        assert_eq!(totals.counts().disk_read_bytes, 500_000);
        assert!(before > 100 && machine.blocks() <= 8, "{before} blocks, then {}", machine.blocks());
    }

    #[test]
    fn what_is_no_line_is_skipped_and_goes_too() {
        let mut machine = Machine::new();
        let totals = Totals::default();
        machine.writes("\n[]\n{\"block\":7}\n{\"block\":{\"read_bytes\":-1}}\n\0\0\nnull\n");
        machine.writes(&"x".repeat(3 * MOST));
        machine.writes(&format!("\n{LINE}\n"));
        take(&machine.path, &totals).unwrap();
        assert_eq!(totals.counts().disk_read_bytes, 10);
        assert!(machine.blocks() <= 8, "{}", machine.blocks());
    }

    #[test]
    fn a_link_is_not_followed() {
        let machine = Machine::new();
        let link = machine.path.with_file_name("link");
        std::os::unix::fs::symlink(&machine.path, &link).unwrap();
        assert!(take(&link, &Totals::default()).is_err());
        assert!(take(&machine.path.with_file_name("none"), &Totals::default()).is_err());
    }
}
