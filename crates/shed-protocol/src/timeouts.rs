//! Times that host and guest must agree on, in one place.

use std::time::Duration;

/// How long either side waits for the line that opens a stream (spec B.6).
pub const CONNECT_LINE: Duration = Duration::from_secs(5);

/// How long a service on the guest's loopback may take to accept the agent's connection (spec B.6).
pub const TCP_DIAL: Duration = Duration::from_secs(10);

/// How long the host waits for the agent's word on such a connection: the guest's own limit and some time for a guest
/// that is slow, so that its reason arrives before the host gives up.
pub const TCP_DIAL_REPLY: Duration = Duration::from_secs(13);

/// How often the guest writes an empty data frame on an exec stream to notice a host that is gone (spec B.3).
pub const EXEC_PROBE: Duration = Duration::from_secs(15);

/// How long output is drained after a command without a terminal has ended (spec B.3): a daemon it started may
/// hold the pipe open for ever.
pub const EXEC_DRAIN: Duration = Duration::from_secs(2);

/// Time between SIGHUP and SIGKILL for a command whose host is gone (spec B.3).
pub const EXEC_HANGUP_GRACE: Duration = Duration::from_secs(5);

/// How often the guest sends a health event (spec B.5).
pub const HEALTH_EVENT: Duration = Duration::from_secs(30);

/// Longest wait for one write on the message channel (spec B.5).
pub const MESSAGE_WRITE: Duration = Duration::from_secs(5);

/// Longest wait for the reply to a `system:` request. It is far longer than a healthy guest needs, because one
/// under software emulation may stall while it boots.
pub const SYSTEM_REPLY: Duration = Duration::from_secs(30);

const _: () = assert!(TCP_DIAL_REPLY.as_secs() > TCP_DIAL.as_secs());
const _: () = assert!(SYSTEM_REPLY.as_secs() > MESSAGE_WRITE.as_secs());
