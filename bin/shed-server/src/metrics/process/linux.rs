//! Linux, which tells all of it in /proc.

use std::fs;

/// Returns the resident memory in bytes.
pub(in super::super) fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// Returns how many file descriptors are open, without the one that this look takes.
pub(in super::super) fn open_descriptors() -> Option<u64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(count.saturating_sub(1))
}

/// Returns when the process began, in seconds since 1970.
pub(in super::super) fn start_time() -> Option<f64> {
    let ticks = start_ticks(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let boot = boot_time(&fs::read_to_string("/proc/stat").ok()?)?;
    let per_second = rustix::param::clock_ticks_per_second();
    #[expect(clippy::cast_precision_loss, reason = "seconds of uptime fit with their fractions")]
    let uptime = ticks as f64 / per_second as f64;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
    let boot = boot as f64;
    Some(boot + uptime)
}

/// Reads `starttime`, the 22nd field of a process's stat (proc_pid_stat(5)): clock ticks after boot. The second field is
/// the program's name in parentheses, and may have any character in it.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Reads `btime` of the system's stat (proc_stat(5)): the boot in seconds since 1970.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let after = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        for name in ["shed-server", "a b", "a) S 1", "((("] {
            assert_eq!(start_ticks(&format!("77 ({name}) {after}")), Some(4242), "{name}");
        }
        for text in ["", "1", "1 (x", "1 (x) S 1"] {
            assert_eq!(start_ticks(text), None, "{text}");
        }
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 1\n"), Some(1_700_000_000));
        assert_eq!(boot_time("cpu 1 2\n"), None);
    }

    #[test]
    fn this_process_began_a_moment_ago_and_has_some_memory() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - start_time().unwrap();
        assert!((-2.0..600.0).contains(&age), "{age}");
        assert!(resident_bytes().unwrap() > 100_000);
        let before = open_descriptors().unwrap();
        let files: Vec<_> = (0..10).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert!(open_descriptors().unwrap() >= before, "{} files", files.len());
    }
}
