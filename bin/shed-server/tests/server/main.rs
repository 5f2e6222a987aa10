//! Tests of shed-server from outside: the program with its signals, and the API over a fake backend.

mod access_log;
mod api;
mod common;
mod connect;
mod create;
mod doctor;
mod events;
mod exec;
mod files;
mod fuzz;
#[cfg(target_os = "linux")]
mod host_commands;
mod host_key;
mod images;
mod manners;
#[cfg(target_os = "linux")]
mod many_events;
mod metrics;
mod openapi;
mod plugins;
mod process;
mod pulls;
mod registry;
mod sessions;
#[cfg(target_os = "linux")]
mod shares;
mod sheds;
mod ssh;
mod ssh_client;
mod ssh_flow;
mod ssh_requests;
mod ssh_strangers;
mod status;
mod system;
