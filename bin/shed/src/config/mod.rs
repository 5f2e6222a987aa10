//! The client's own file, `~/.shed/config.yaml` (spec K.3): the servers it knows and where it last saw each shed.
//!
//! [`known_hosts`] is the file of host keys beside it. [`model`] says what is in the config file, [`store`] reads and replaces it. Commands change the file only through [`ConfigStore::update`], so that two of them at once lose nothing.

mod known_hosts;
mod model;
mod store;

pub(crate) use known_hosts::{HostKey, KnownHosts, KnownHostsError, Place};
pub(crate) use model::{CachedShed, ClientConfig, Host, ServerEntry, ServerName, default_ssh_port};
pub(crate) use store::{ConfigError, ConfigStore};
