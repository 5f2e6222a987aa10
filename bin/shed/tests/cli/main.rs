//! Runs the real `shed`: as users who make mistakes, and against servers and peers that misbehave.

mod create;
mod exec;
mod peer;
mod server;
mod terminal;
mod usage;
mod user;
