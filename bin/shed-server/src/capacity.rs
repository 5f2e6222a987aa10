//! How many connections the server holds at once, by the limit of open files.
//!
//! `main` raises the limit; [`serve`](crate::serve) asks how far it goes. A connection is one descriptor. A stream into a
//! guest keeps that one and, where the backend gives each stream a socket, takes a second.

use shed_process::open_files;

/// Descriptors that are never given to clients: those of machines (a few each), of files, of the guests' connections.
const OWN: u64 = 256;

/// Below this many, the log says what it means, and `doctor` what to do.
pub(crate) const LOW: u64 = 4096;

/// Most connections and most streams, however many files the system allows: what they take of memory is bounded, too.
const MOST: u64 = 16384;

/// Fewest, however few it allows; the system's refusals do the rest.
const FEWEST: u64 = 16;

/// How much is held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// HTTP connections, those that receive events among them.
    pub connections: usize,
    /// SSH connections of clients that have logged in.
    pub ssh: usize,
    /// Streams into guests: connections that have left HTTP, and channels of SSH.
    pub streams: usize,
}

impl Capacity {
    /// Returns what this process may hold.
    #[must_use]
    pub fn of_process() -> Self {
        Self::within(open_files::limit())
    }

    /// Returns what a limit of open files allows: each connection one, each stream two, a quarter as many connections of
    /// SSH, which carry many streams each, and an eighth for everything
    /// else, but not fewer than [`OWN`].
    #[must_use]
    pub fn within(limit: u64) -> Self {
        let share = limit.saturating_sub(OWN.max(limit / 8)) * 4 / 13;
        let share = usize::try_from(share.clamp(FEWEST, MOST)).unwrap_or(usize::MAX);
        Self { connections: share, ssh: share / 4, streams: share }
    }
}

/// Raises the limit of open files as far as the system lets this process, and says in the log what it comes to.
pub fn raise_descriptor_limit() {
    if let Err(error) = open_files::raise_limit() {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let limit = open_files::limit();
    let Capacity { connections, ssh, streams } = Capacity::within(limit);
    if limit < LOW {
        tracing::warn!(
            limit,
            connections,
            ssh,
            streams,
            "few files may be open at once, and so few connections; raise the limit (LimitNOFILE of the systemd unit, \
             or `ulimit -Hn`)"
        );
    } else {
        tracing::debug!(limit, connections, ssh, streams, "files that may be open at once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_shared_out_and_never_overdrawn() {
        for limit in [1024, 4096, 10240, 20000, 65536, 524_288] {
            let Capacity { connections, ssh, streams } = Capacity::within(limit);
            let most = u64::try_from(connections + ssh + 2 * streams).unwrap();
            assert!(most + OWN <= limit, "{limit}: {most}");
        }
        assert!(Capacity::within(20_000).streams >= 4096);
        assert_eq!(Capacity::within(1 << 40).streams, 16384);
        assert_eq!(Capacity::within(10).connections, 16);
    }
}
