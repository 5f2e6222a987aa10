//! Runs the real `shed`: as users who make mistakes, and against servers and peers that misbehave.

mod console;
mod create;
mod delete;
mod exec;
mod host_key;
mod image;
mod image_build;
mod peer;
mod prune;
mod pty;
mod server;
mod servers;
mod sessions;
mod ssh;
mod ssh_config;
mod ssh_peer;
mod status;
mod stub;
mod sync;
mod system;
mod terminal;
mod tunnel_daemon;
mod tunnel_files;
mod tunnel_server;
mod tunnels;
#[cfg(target_os = "linux")]
mod tunnels_linux;
mod usage;
mod user;
