//! How many files a process may have open. Programs that carry connections, each of which is a descriptor or two, raise it when
//! they begin; the usual limit of 1024 is from the days of select(2).

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Returns how many files this process may have open now.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(system::UNLIMITED)
}

/// Returns how many it may have when it raises its limit; nothing where the system names no number.
#[must_use]
pub fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Raises the limit as far as the system lets this process. It is never lowered.
///
/// # Errors
/// When the system refuses; the limit is as it was then.
pub fn raise_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = system::highest(maximum);
    let is_higher = match (current, raised) {
        (Some(current), Some(raised)) => raised > current,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if is_higher {
        setrlimit(Resource::Nofile, Rlimit { current: raised, maximum })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_goes_up_as_far_as_it_may_and_stays_there() {
        let (before, maximum) = (limit(), most());
        let low = Rlimit { current: Some(before.min(64)), maximum };
        setrlimit(Resource::Nofile, low).unwrap();
        assert!(limit() <= 64);
        raise_limit().unwrap();
        let raised = limit();
        assert!(raised >= before && maximum.is_none_or(|maximum| raised <= maximum), "{before} {raised}");
        raise_limit().unwrap();
        assert_eq!((limit(), most()), (raised, maximum));
    }
}
