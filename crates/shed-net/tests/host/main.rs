//! The real kernel, the real `nft`, in a network namespace of each test's own.
#![cfg(target_os = "linux")]

mod stage;

mod bridge;
mod check;
mod crash;
mod reach;
mod spoofing;
mod taps;
mod user;
