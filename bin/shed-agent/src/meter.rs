//! Measures what the guest uses of its machine, from /proc and the file system of /. [`crate::health`] calls it.
//!
//! Reading is apart from understanding, which is pure. A file that is missing or odd leaves its numbers at zero: a
//! health report is worth sending without them.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use shed_protocol::Metrics;

/// Shortest span over which processor time says something: the kernel counts it in steps of 10 ms.
const SHORTEST_SPAN: Duration = Duration::from_millis(500);

/// Remembers earlier looks at the processors, to tell how busy they were since.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<Looks>);

#[derive(Debug, Default)]
struct Looks {
    last: Option<Look>,
    /// What the last one is compared with when the next comes too soon after it.
    before: Option<Look>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    time: CpuTime,
}

/// Processor time since the boot, in the kernel's ticks, of all processors together (proc_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTime {
    busy: u64,
    all: u64,
}

impl Meter {
    /// Measures now.
    pub(crate) fn measure(&self) -> Metrics {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (stat, meminfo) = (read("/proc/stat"), read("/proc/meminfo"));
        let load = load(&read("/proc/loadavg"));
        let (disk_total, disk_used) = disk();
        let memory_total = kibibytes(&meminfo, "MemTotal");
        let cpu_percent =
            cpu_time(&stat).and_then(|time| self.percent_since_before(Look { at: Instant::now(), time }));
        Metrics {
            cpu_percent,
            cpus: cpus(&stat),
            memory_total,
            memory_used: memory_total.saturating_sub(kibibytes(&meminfo, "MemAvailable")),
            disk_total,
            disk_used,
            load: load.averages,
            uptime_s: uptime(&read("/proc/uptime")),
            tasks: load.tasks,
        }
    }

    fn percent_since_before(&self, now: Look) -> Option<f64> {
        // The looks are whole at every point where a holder could die.
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.take(now)
    }
}

impl Looks {
    fn take(&mut self, now: Look) -> Option<f64> {
        let soon = self.last.is_some_and(|last| now.at.duration_since(last.at) < SHORTEST_SPAN);
        if !soon {
            self.before = self.last.replace(now);
        }
        let before = self.before?;
        percent(before.time, now.time)
    }
}

/// Counters of a guest that was saved and brought back may go backwards; that says nothing.
fn percent(before: CpuTime, now: CpuTime) -> Option<f64> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    let busy = now.busy.checked_sub(before.busy)?.min(all);
    // Both are ticks since the boot: far below 2^52 for any machine.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    Some(busy as f64 * 100.0 / all as f64)
}

/// Adds up the first line of /proc/stat. Waiting for a disk is no use of a processor; time that the host took away is
/// left out of both, and guest time is part of user time already.
fn cpu_time(stat: &str) -> Option<CpuTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> =
        line.split_ascii_whitespace().map_while(|field| field.parse().ok()).take(7).collect();
    let [user, nice, system, idle, iowait, irq, softirq] = fields[..] else { return None };
    let busy = [user, nice, system, irq, softirq].into_iter().fold(0, u64::saturating_add);
    Some(CpuTime { busy, all: busy.saturating_add(idle).saturating_add(iowait) })
}

fn cpus(stat: &str) -> u32 {
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    u32::try_from(stat.lines().filter(is_cpu).count()).unwrap_or(u32::MAX)
}

/// Returns a field of /proc/meminfo in bytes (proc_meminfo(5): its kB are 1024 bytes).
fn kibibytes(meminfo: &str, key: &str) -> u64 {
    let value = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        (name == key).then(|| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())?
    };
    meminfo.lines().find_map(value).unwrap_or(0).saturating_mul(1024)
}

#[derive(Debug, Default, PartialEq)]
struct Load {
    averages: [f64; 3],
    tasks: u64,
}

fn load(loadavg: &str) -> Load {
    let mut fields = loadavg.split_ascii_whitespace();
    let mut average =
        || fields.next().and_then(|field| field.parse().ok()).filter(|value: &f64| value.is_finite());
    let averages = [average(), average(), average()].map(Option::unwrap_or_default);
    let tasks = fields.next().and_then(|field| field.split_once('/')?.1.parse().ok()).unwrap_or(0);
    Load { averages, tasks }
}

fn uptime(text: &str) -> u64 {
    text.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

/// Returns size and use of the file system of /, in bytes.
fn disk() -> (u64, u64) {
    let Ok(fs) = rustix::fs::statvfs("/") else { return (0, 0) };
    let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    (bytes(fs.f_blocks), bytes(fs.f_blocks.saturating_sub(fs.f_bfree)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 10 40 800 50 5 5 7 3 1\ncpu0 50 5 20 400 25 2 3 4 1 0\ncpu1 50 5 20 400 25 3 2 3 2 1\n\
        intr 12 0\nctxt 9\ncpufreq 1\n";

    #[test]
    fn the_files_of_proc_are_understood() {
        assert_eq!(cpu_time(STAT), Some(CpuTime { busy: 160, all: 1010 }));
        assert_eq!(cpus(STAT), 2);
        let meminfo = "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n";
        assert_eq!((kibibytes(meminfo, "MemTotal"), kibibytes(meminfo, "MemAvailable")), (2 << 20, 1 << 20));
        let expected = Load { averages: [0.5, 1.25, 3.0], tasks: 87 };
        assert_eq!(load("0.50 1.25 3.00 2/87 4711\n"), expected);
        assert_eq!(uptime("350735.47 234388.90\n"), 350_735);
    }

    #[test]
    fn what_is_missing_or_odd_counts_as_nothing() {
        for text in ["", "\n", "cpu", "cpu  - y z . . . .", "MemTotal", "MemTotal: x kB", "NaN inf - 1/x"] {
            assert_eq!(cpu_time(text), None, "{text:?}");
            assert_eq!(kibibytes(text, "MemTotal"), 0, "{text:?}");
            assert_eq!(load(text), Load::default(), "{text:?}");
            assert_eq!(uptime(text), 0, "{text:?}");
        }
    }

    #[test]
    fn the_share_is_of_the_time_since_the_look_before() {
        let start = Instant::now();
        let look =
            |ms, busy, all| Look { at: start + Duration::from_millis(ms), time: CpuTime { busy, all } };
        let mut looks = Looks::default();
        assert_eq!(looks.take(look(0, 100, 1000)), None);
        assert_eq!(looks.take(look(1000, 150, 1200)), Some(25.0));
        // Too soon after the last look for a span of its own.
        assert_eq!(
            looks.take(look(1001, 151, 1201)),
            percent(CpuTime { busy: 100, all: 1000 }, CpuTime { busy: 151, all: 1201 })
        );
        assert_eq!(looks.take(look(2000, 250, 1300)), Some(100.0));
        // Backwards.
        assert_eq!(looks.take(look(3000, 1, 2)), None);
        assert_eq!(looks.take(look(4000, 1, 102)), Some(0.0));
    }

    #[test]
    fn this_machine_is_plausible() {
        let metrics = Meter::default().measure();
        assert!(metrics.cpus >= 1 && metrics.cpu_percent.is_none() && metrics.tasks > 0, "{metrics:?}");
        assert!(metrics.memory_used > 0 && metrics.memory_used < metrics.memory_total, "{metrics:?}");
        assert!(metrics.disk_used > 0 && metrics.disk_used <= metrics.disk_total, "{metrics:?}");
    }
}
