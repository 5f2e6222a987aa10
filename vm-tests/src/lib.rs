//! What the tests that boot real sheds share: a stage to play on, a client for each public door, and eyes for what
//! must not be left behind.
//!
//! The tests in `tests/` and the benchmark `shed-bench` use it. It knows Shed as a stranger does: two programs, a
//! config file, an HTTP API, a directory of sheds. It calls nothing inside the server, so that a test that passes
//! says something about what users get. Everything a stage makes, processes included, ends with the stage, also
//! when the test is killed.

mod cli;
mod exec;
mod gate;
mod git_host;
mod guard;
mod guest_files;
mod host_agent;
mod http;
mod l1;
mod leftovers;
mod oci_tools;
mod openssh;
mod parts;
mod process;
mod promises;
mod pty;
mod python;
mod registry;
mod search;
mod server;
mod service;
mod sse;
mod ssh_key;
mod stage;
mod sts;
mod tmux;
mod tree;
mod vfkit;
mod vsock;
mod wait;

pub use cli::Cli;
pub use exec::{ExecStream, Outcome, RawFrame, exec_request, kind};
pub use gate::Gate;
pub use git_host::{FROM_GUEST, GitHost, GitSsh, LOGIN};
pub use guest_files::{damage_file_system, image_without_init, resident_bytes};
pub use host_agent::{Approval, HostAgent, HostSettings};
pub use http::{Http, Reply};
pub use l1::{Bare, Inventory, L1, Watched};
pub use leftovers::{Expect, VmmProcess, machine_of, vmm_processes};
pub use oci_tools::{OciTools, Tree, assert_same_tree, tree_in_shed};
pub use openssh::{OpenSsh, free_port, known_host, wait_for_listener};
pub use parts::{Parts, skipped};
pub use process::{Finished, Running, find_program, is_alive, kill_process, run};
pub use promises::Promises;
pub use pty::Pty;
pub use python::PythonEnv;
pub use registry::Registry;
pub use search::{found_below, found_in_guest};
pub use server::Server;
pub use service::Tunnel;
pub use sse::{Event, EventStream};
pub use ssh_key::{SshAgent, SshKey};
pub use stage::{Config, Stage};
pub use sts::{PACKAGES, ROLE, Sts, bring_aws_clients};
pub use tmux::Tmux;
pub use tree::listing;
pub use vfkit::{VfkitMachine, vfkit_in};
pub use vsock::{Channel, Share, VsockMachine};
pub use wait::{BOOT, SHORT, wait_for};
