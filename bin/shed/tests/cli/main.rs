//! Runs the real `shed`: as users who make mistakes, and against servers and peers that misbehave.

mod console;
mod create;
mod delete;
mod exec;
mod host_key;
mod image;
mod peer;
mod prune;
mod pty;
mod server;
mod sessions;
mod ssh;
mod ssh_peer;
mod stub;
mod system;
mod terminal;
mod usage;
mod user;
