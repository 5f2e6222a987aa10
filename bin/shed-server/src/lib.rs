//! The daemon: configuration, the HTTP API over the lifecycle, and an orderly start and end.
//!
//! `main.rs` is the only program that uses this; it is a library so that tests run the API in their own process
//! over a fake backend. The rooms: [`config`] reads server.yaml, [`backends`] picks what runs machines, [`http`]
//! turns requests into calls of `shed-lifecycle` and errors into replies, [`ssh`] does the same for SSH, [`serve`] owns sockets, signals and the
//! drain at the end, [`metrics`] counts, [`pull_images`] gets images ahead of creates, [`host_key`] is who the server is to SSH clients.
//! Of the host itself: [`doctor`] looks at it, `setup` makes it ready, `service` has systemd run the server and `launchd` a
//! Mac's launchd, each step of which is told as a [`step`], and `account` is whose server it is.

#[cfg(target_os = "linux")]
pub mod account;
pub mod backends;
pub mod capacity;
pub mod config;
mod connection;
pub mod doctor;
mod guest_peer;
pub mod host_key;
pub mod http;
#[cfg(any(test, target_os = "macos"))]
pub mod launchd;
pub mod logging;
pub mod metrics;
mod notify;
mod owned_file;
pub mod pull_images;
pub mod report;
pub mod serve;
#[cfg(target_os = "linux")]
pub mod serve_share;
#[cfg(target_os = "linux")]
pub mod service;
#[cfg(target_os = "linux")]
pub mod setup;
mod shown;
pub mod ssh;
pub mod step;
mod streams;
mod system;
