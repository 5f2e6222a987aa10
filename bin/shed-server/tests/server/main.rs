//! Tests of shed-server from outside: the program with its signals, and the API over a fake backend.

mod api;
mod common;
mod create;
mod events;
mod exec;
mod fuzz;
mod images;
mod openapi;
mod process;
mod sessions;
mod sheds;
