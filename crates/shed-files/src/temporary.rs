//! Things under a name of their own until they are whole, and what is left of them when their process dies first.
//!
//! The name is `.shed-LIFE-NUMBER`, where LIFE differs from process to process. Only one agent runs in a guest, so what has
//! such a name with another LIFE there belongs to nobody any more: an agent or a machine that died in the middle left it. On
//! a host several programs may be at work, so there only what is old counts as left.

use std::{
    collections::hash_map::RandomState,
    ffi::{CStr, OsStr},
    hash::{BuildHasher, Hasher},
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, Dir, renameat, statat, unlinkat},
    io::Errno,
};

/// What all these names begin with.
const PREFIX: &str = ".shed-";

/// Digits of a life: a number of 64 bits.
const LIFE_DIGITS: usize = 16;

/// This process's life: by chance, because process ids come again after a restart of the guest.
static LIFE: LazyLock<String> =
    LazyLock::new(|| format!("{:016x}", RandomState::new().build_hasher().finish()));

/// Makes the names of this process differ.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Something under a name of its own in the directory where it will stay, and its guard.
pub(crate) struct Temporary<'a, T>(pub(crate) Guard<'a>, pub(crate) T);

/// Removes what it guards, unless that was renamed.
pub(crate) struct Guard<'a> {
    directory: BorrowedFd<'a>,
    pub(crate) name: String,
    renamed: bool,
}

impl<'a, T> Temporary<'a, T> {
    pub(crate) fn new(
        directory: BorrowedFd<'a>,
        make: impl Fn(&str) -> Result<T, Errno>,
    ) -> Result<Self, Errno> {
        loop {
            let name = format!("{PREFIX}{}-{}", *LIFE, COUNTER.fetch_add(1, Relaxed));
            match make(&name) {
                Ok(made) => return Ok(Self(Guard { directory, name, renamed: false }, made)),
                // Somebody in the guest has taken the name.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Guard<'_> {
    pub(crate) fn rename(mut self, name: &OsStr) -> Result<(), Errno> {
        renameat(self.directory, &self.name, self.directory, name.as_bytes())?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // When even that fails, an odd file is left; the cause is being reported already.
            let _left = unlinkat(self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Tells whether this is a name that a transfer of this or another process gives to what is not whole yet.
#[must_use]
pub fn is_temporary(name: &[u8]) -> bool {
    life(name).is_some()
}

/// Removes what earlier processes left in a directory and have not written to for this long.
pub(crate) fn sweep_old(directory: BorrowedFd<'_>, age: Duration) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    sweep_if(directory, |name| {
        statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| u64::try_from(stat.st_mtime).is_ok_and(|at| at + age.as_secs() < now.as_secs()))
    });
}

pub(crate) fn sweep_if(directory: BorrowedFd<'_>, old_enough: impl Fn(&CStr) -> bool) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    for entry in entries {
        let Ok(entry) = entry else { return };
        if is_left_over(entry.file_name().to_bytes()) && old_enough(entry.file_name()) {
            // Not a directory, whatever it is called: those are refused.
            let _stays = unlinkat(directory, entry.file_name(), AtFlags::empty());
        }
    }
}

/// Whether an earlier process has given this name.
fn is_left_over(name: &[u8]) -> bool {
    life(name).is_some_and(|life| life != LIFE.as_bytes())
}

/// Returns the life in a temporary name; nothing when it is none.
fn life(name: &[u8]) -> Option<&[u8]> {
    let (life, number) = name.strip_prefix(PREFIX.as_bytes())?.split_at_checked(LIFE_DIGITS)?;
    let number = number.strip_prefix(b"-")?;
    let whole = life.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && !number.is_empty()
        && number.iter().all(u8::is_ascii_digit);
    whole.then_some(life)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd};

    use super::*;

    #[test]
    fn only_what_another_life_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ours = format!(".shed-{}-3", *LIFE);
        let mut kept = vec![
            ours.as_str(),
            ".shed-0123456789abcdef",
            ".shed-0123456789abcdef-",
            ".shed-0123456789abcdef-7x",
            ".shed-0123456789ABCDEF-7",
            ".shed-1234-7",
            "x.shed-0123456789abcdef-7",
        ];
        for name in &kept {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join(".shed-0123456789abcdef-9")).unwrap();
        kept.push(".shed-0123456789abcdef-9");
        fs::write(dir.path().join(".shed-0123456789abcdef-7"), "half").unwrap();
        std::os::unix::fs::symlink("x", dir.path().join(".shed-0123456789abcdef-80")).unwrap();
        sweep_if(fs::File::open(dir.path()).unwrap().as_fd(), |_| true);
        let mut left: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        kept.sort_unstable();
        assert_eq!(left, kept);
    }
}
