//! The whole service over an in-memory stream, with real bash and real git.

mod clones;
mod git;
mod hooks;
mod host;
