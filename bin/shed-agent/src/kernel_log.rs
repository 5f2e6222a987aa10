//! Tells the host of processes that the kernel kills for want of memory, from the kernel's own log.
//!
//! /dev/kmsg is there in every image, journal or not, costs no process, and says which lines are the kernel's own: what
//! programs write into it has another facility.

use std::{io, time::Duration};

use jiff::Timestamp;
use rustix::{
    fs::{Mode, OFlags, SeekFrom},
    io::Errno,
};
use shed_protocol::{Envelope, GuestEvent, SYSTEM_EVENT};
use tokio::{
    io::Interest,
    time::{Instant, sleep_until},
};

use crate::{log, state::State, watched_fd::watch as watch_fd};

/// Room for the longest record (kernel/printk: CONSOLE_EXT_LOG_MAX).
const RECORD: usize = 8 << 10;

/// What comes before the process in the kernel's words, with and without a memory cgroup (mm/oom_kill.c).
const KILLED: &str = "ut of memory: Killed process ";

/// Shortest time between two events; a program that is started again and again dies faster than anybody reads.
const SPACING: Duration = Duration::from_secs(1);

/// Watches from now on until the log cannot be read.
pub(crate) async fn watch(state: &State) {
    if let Err(error) = follow(state).await {
        log::info(&format!("the kernel's log is not watched: {error}"));
    }
}

async fn follow(state: &State) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let kmsg = rustix::fs::open("/dev/kmsg", flags, Mode::empty())?;
    rustix::fs::seek(&kmsg, SeekFrom::End(0))?;
    let kmsg = watch_fd(kmsg, Interest::READABLE)?;
    let mut record = vec![0; RECORD];
    loop {
        let mut ready = kmsg.readable().await?;
        let read = ready.try_io(|kmsg| match rustix::io::read(kmsg, &mut record) {
            // Older records were overwritten before they were read; the next one is there.
            Err(Errno::PIPE) => Ok(0),
            read => Ok(read?),
        });
        let Ok(read) = read else { continue };
        if let Some(process) = killed(&record[..read?]) {
            let event = GuestEvent::OutOfMemory { process, at: Timestamp::now() };
            state.post(&Envelope::event(SYSTEM_EVENT, &event));
            sleep_until(Instant::now() + SPACING).await;
        }
    }
}

/// Returns what a record says of a process that was killed: `priority,number,time,flags;text` (ABI/testing/dev-kmsg).
fn killed(record: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(record);
    let (prefix, text) = text.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    // The facility is above the three bits of the level; the kernel's is 0.
    if priority >> 3 != 0 {
        return None;
    }
    let (_, process) = text.lines().next()?.split_once(KILLED)?;
    let process = process.split(" total-vm:").next()?.trim_end_matches([',', ' ']);
    Some(process.chars().take(256).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_believed_and_programs_are_not() {
        let words = "Out of memory: Killed process 812 (python3) total-vm:9kB, anon-rss:8kB\n SUBSYSTEM=x\n";
        assert_eq!(killed(format!("3,812,99,-;{words}").as_bytes()).unwrap(), "812 (python3)");
        let cgroup = "6,1,2,-,caller=T1;Memory cgroup out of memory: Killed process 7 (a b), UID 0\n";
        assert_eq!(killed(cgroup.as_bytes()).unwrap(), "7 (a b), UID 0");
        for record in [format!("11,812,99,-;{words}"), words.to_owned(), "6,1,2,-;up\n".into(), String::new()]
        {
            assert_eq!(killed(record.as_bytes()), None, "{record:?}");
        }
    }
}
