//! Tests of shed-server from outside: the program with its signals, and the API over a fake backend.

mod common;
mod process;
