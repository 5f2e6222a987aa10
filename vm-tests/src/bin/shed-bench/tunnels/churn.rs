//! Tunnels that come and go: what 200 a second for half a minute leave behind in the server.

use std::{
    io::{Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use vm_tests::{Http, SHORT, Server, Stage, wait_for};

use super::{SHED, SHORT_LIVED, megabytes};
use crate::{report::Report, stats::Times};

/// Tunnels opened and closed a second.
const RATE: u32 = 200;

const SECONDS: u32 = 30;

/// Seconds of the same before anything counts: buffers and pools reach their size.
const WARM_UP: u32 = 5;

/// Tunnels on their way at once at most.
const THREADS: u32 = 16;

/// Most that the server's memory may have grown, in MB: what a pool of freed memory moves from time to time.
const GROWTH_MB: f64 = 2.0;

/// Least of the rate that counts as kept.
const KEPT: f64 = 0.95;

/// Measures.
pub(super) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let server = stage.serve();
    stage.cli().wait_for_exec(SHED, vm_tests::BOOT);
    report.progress(&format!("tunnels: {RATE} a second for {} s", WARM_UP + SECONDS));
    let _warm = open_and_close(server.http(), WARM_UP)?;
    let idle = settle(&server);
    let resident = server.resident_bytes();
    let begun = Instant::now();
    let times = open_and_close(server.http(), SECONDS)?;
    let rate = f64::from(RATE * SECONDS) / begun.elapsed().as_secs_f64();
    let after = settle(&server);
    let grown = megabytes(server.resident_bytes()) - megabytes(resident);
    report.times("a tunnel opened, one byte heard, closed", &times);
    report.at_least("  tunnels opened and closed a second", rate, f64::from(RATE) * KEPT, "1/s");
    report.at_most(&format!("  growth of the server after {}", RATE * SECONDS), grown, GROWTH_MB, "MB");
    let more = i32::try_from(after).unwrap_or(i32::MAX) - i32::try_from(idle).unwrap_or(0);
    report.at_most("  descriptors it has more", f64::from(more), 0.0, "");
    Ok(())
}

/// Waits until the server's descriptors are no fewer a moment later, and returns how many they are.
pub(super) fn settle(server: &Server) -> usize {
    let mut last = (server.descriptors(), Instant::now());
    wait_for("the server's descriptors to settle", SHORT, || {
        let now = server.descriptors();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(1)).then_some(now)
    })
}

fn open_and_close(http: Http, seconds: u32) -> anyhow::Result<Times> {
    let (tickets, queue) = mpsc::sync_channel::<()>(usize::try_from(THREADS)?);
    let queue = Arc::new(Mutex::new(queue));
    let times = Arc::new(Mutex::new(Times::default()));
    let failed = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (queue, times, failed) = (Arc::clone(&queue), Arc::clone(&times), Arc::clone(&failed));
            thread::spawn(move || {
                loop {
                    let ticket = queue.lock().map(|queue| queue.recv());
                    if !matches!(ticket, Ok(Ok(()))) {
                        return;
                    }
                    let begun = Instant::now();
                    if one(http).is_ok() {
                        if let Ok(mut times) = times.lock() {
                            times.push(begun.elapsed());
                        }
                    } else {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
        for _ in 0..RATE * seconds {
            ticks.tick().await;
            // Blocks when the server cannot keep up, and the rate tells.
            tickets.send(()).context("every thread has ended")?;
        }
        anyhow::Ok(())
    })?;
    drop(tickets);
    for thread in threads {
        ensure!(thread.join().is_ok(), "a thread of the benchmark panicked");
    }
    let failed = failed.load(Ordering::Relaxed);
    ensure!(failed == 0, "{failed} tunnels of {} failed", RATE * seconds);
    let times = times.lock().map_err(|_| anyhow::anyhow!("a thread of the benchmark panicked"))?;
    Ok(times.clone())
}

fn one(http: Http) -> anyhow::Result<()> {
    let mut tunnel = http.tunnel(SHED, SHORT_LIVED).map_err(|reply| anyhow::anyhow!(reply.text()))?;
    tunnel.flush()?;
    let mut bytes = Vec::new();
    tunnel.read_to_end(&mut bytes)?;
    ensure!(bytes == b"x", "{bytes:?} came");
    Ok(())
}
