//! Sheds as hosts in the configuration of OpenSSH (spec F.1), so that ssh, scp, rsync, git and editors find them.
//!
//! [`entry`] is one host, [`block`] the part of a configuration that is ours, [`file`] the user's `~/.ssh/config` with
//! that part in it, [`merge`] whose a name is that two servers have. `commands/ssh_config.rs` decides which sheds they are
//! for.

pub(crate) mod block;
pub(crate) mod entry;
pub(crate) mod file;
pub(crate) mod merge;
