//! Serves a directory by 9P over its standard input, which is a stream to a guest; ends when the stream ends.
//!
//! Started by the tests of 9P in a guest, to be killed by them.

use std::{os::fd::AsFd, os::unix::net::UnixStream, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shed_ninep::{Options, Root, serve};

/// Serves a directory by 9P over its standard input.
#[derive(Debug, Parser)]
struct Arguments {
    /// The directory.
    dir: PathBuf,
    /// Refuse whatever changes anything.
    #[arg(long)]
    read_only: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Each file that the guest knows is a descriptor.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .context("the limit of descriptors")?;
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let root = Root::open(&arguments.dir)?;
    // The agent mounts with `cache=mmap`.
    let options = Options {
        read_only: arguments.read_only,
        append_at_end: false,
        uncached: true,
        ..Options::default()
    };
    serve(stream.try_clone()?, stream, root, options).context("the guest's stream")
}
